"""The clock of tests: it stands still until the test moves it."""

from __future__ import annotations

from datetime import UTC, datetime

#: Unix time when a clock's monotonic time is 0.
EPOCH = 1_700_000_000.0


class MovedClock:
    """Monotonic, Unix and calendar time that pass together. A call returns the monotonic time.

    Attributes:
        now: The monotonic time in seconds, which tests set.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    @classmethod
    def at(cls, moment: datetime) -> MovedClock:
        """Return a clock that shows this moment."""
        return cls(moment.timestamp() - EPOCH)

    def monotonic(self) -> float:
        return self.now

    __call__ = monotonic

    def time(self) -> float:
        return EPOCH + self.now

    def utc(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)
