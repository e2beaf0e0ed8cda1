"""Doubling waits while a service is in trouble. Retries of jobs use the delays in `pipeline.settings` instead."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass
class Backoff:
    """The wait after each failure in a row: `first` seconds, doubled each time up to `last`.

    Attributes:
        first: Seconds after the first failure.
        last: The longest wait, in seconds.
        rng: Shortens each wait by up to half, so that processes that failed together try again apart; None for none.
        wait: The wait after the latest failure, before it was shortened; 0 after a success.
    """

    first: float
    last: float
    rng: random.Random | None = None
    wait: float = 0.0

    def next(self) -> float:
        """Count one more failure; returns the seconds to wait before the next attempt."""
        self.wait = min(max(2 * self.wait, self.first), self.last)
        return self.wait * self.rng.uniform(0.5, 1.0) if self.rng else self.wait

    def reset(self) -> None:
        """Start again at `first`, after a success."""
        self.wait = 0.0
