"""How often suspects were begun alone, kept in staging: what one worker began, another has to judge."""

from __future__ import annotations

import hashlib

from pipeline.errors import StagedMissing
from pipeline.storage.staging import staging


class StagedTrials:
    """A number for each message that is suspected of killing its workers (`pipeline.sqs.consumer.Trials`).

    Both raise RetryableError where staging is in trouble.
    """

    def count(self, message_id: str) -> int:
        """How often the message was begun alone and did not end."""
        try:
            return int(staging().get(_key(message_id)))
        except StagedMissing:
            return 0

    def record(self, message_id: str, count: int) -> None:
        """Remember it; 0 forgets the message."""
        if count:
            staging().put(str(count).encode(), _key(message_id))
        else:
            staging().delete([_key(message_id)])


def _key(message_id: str) -> str:
    return hashlib.sha256(f"trials of {message_id}".encode()).hexdigest()[:32]
