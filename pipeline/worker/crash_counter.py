"""The trials of suspects, stored in staging because another worker continues the count."""

from __future__ import annotations

import hashlib

from pipeline.errors import StagedMissing
from pipeline.storage.staging import staging


class StagedTrials:
    """Implements `pipeline.sqs.consumer.Trials` with one small object per suspect.

    Both methods raise RetryableError if staging fails.
    """

    def count(self, message_id: str) -> int:
        """Return the number of trials that did not finish."""
        try:
            return int(staging().get(_key(message_id)))
        except StagedMissing:
            return 0

    def record(self, message_id: str, count: int) -> None:
        """Store the number of trials; 0 removes the message."""
        if count:
            staging().put(str(count).encode(), _key(message_id))
        else:
            staging().delete([_key(message_id)])


def _key(message_id: str) -> str:
    return hashlib.sha256(f"trials of {message_id}".encode()).hexdigest()[:32]
