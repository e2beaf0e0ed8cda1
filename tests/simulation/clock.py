"""Virtual time: nothing waits, and a history of hours takes milliseconds."""

from __future__ import annotations

#: Unix time at which every history begins. The value has no meaning; it only has to look like a time.
EPOCH = 1_800_000_000.0


class VirtualClock:
    """A clock that moves only when the scheduler moves it.

    Attributes:
        now: Seconds since the history began.
    """

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return EPOCH + self.now

    def advance_to(self, when: float) -> None:
        self.now = max(self.now, when)
