"""Looks: a message that waits long is received from time to time, to see whether it should go on waiting.

SQS cannot hurry a delayed message. So a long wait is a chain of short ones, and each costs a receive, a send and a
delete, which up to ten messages share. A message that waits alone costs $0.002 a day; 750 together cost $0.15, measured
at 253 requests a minute. The rate is limited, so that a crowd costs each process $0.21 a day, or what the longest delay
of SQS needs if more than 18,000 messages wait: 100,000 cost $1.15.
"""

from __future__ import annotations

from pipeline.sqs.loop import Clock
from pipeline.sqs.wire import MAX_DELAY

#: Seconds between two looks. A wait of up to half as much more has none.
LOOK = 60.0

#: Looks a second of the messages that one process sends. If more wait, each looks less often: the longest delay of SQS.
MAX_RATE = 20.0

#: Messages look at multiples of so many seconds, so that they share requests.
GRID = 10.0


class Looks:
    """Books the looks of the messages that this process sends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._booked = 0.0  # Unix time; threads that book at once book the same look, which is harmless

    def after(self, left: float) -> float:
        """Return the seconds until a message is to be received that is due in `left` seconds."""
        if left <= 1.5 * LOOK:
            return left
        now = self._clock.time()
        self._booked = min(max(now + LOOK, self._booked + 1 / MAX_RATE), now + MAX_DELAY)
        return min(left, self._booked // GRID * GRID - now)
