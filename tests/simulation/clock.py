"""Virtual time: nothing waits, and a history of hours takes milliseconds."""

from __future__ import annotations

#: Unix time at which every history begins. The value has no meaning; it only has to look like a time.
EPOCH = 1_800_000_000.0


class VirtualClock:
    """A clock that moves only when the scheduler moves it. It has the functions of the module `time` that are used.

    Attributes:
        now: Seconds, from 1. The product takes 0 for no time at all, which no machine shows.
        jumped: The sum of all jumps of Unix time, in seconds.
    """

    def __init__(self) -> None:
        self.now = 1.0
        self.jumped = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return EPOCH + self.now + self.jumped

    def advance_to(self, when: float) -> None:
        self.now = max(self.now, when)
