"""The store of bodies that are too long for a message, for the queue layer and for `ingest`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import RetryableError
from pipeline.sqs.loop import Clock
from pipeline.sqs.wire import Unavailable
from pipeline.storage.staging import staging

#: Seconds after a failure for which the store fails at once. Each attempt may take a minute, and a thread of the queue
#: layer has leases to keep.
REST = 5.0


@contextmanager
def asked_again() -> Iterator[None]:
    """Translate a RetryableError inside the block to the error after which the queue layer asks again."""
    try:
        yield
    except RetryableError as error:
        raise Unavailable(str(error)) from error


class LongBodies:
    """Stores bodies in staging. After a failure it fails at once for `REST` seconds."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._failure, self._rests_until = Unavailable(""), 0.0

    def put(self, body: bytes) -> str:
        """Store a body; returns its key.

        Raises:
            Unavailable: Staging fails.
        """
        if self._clock.monotonic() < self._rests_until:
            raise self._failure
        try:
            with asked_again():
                return staging().put(body)
        except Unavailable as failure:
            self._failure, self._rests_until = failure, self._clock.monotonic() + REST
            raise
