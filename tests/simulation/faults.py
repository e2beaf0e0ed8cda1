"""The faults that the requests of a history meet."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from tests.simulation.themes import Theme

#: Seconds that a request takes, usually and at most. The product's client gives up after the longest.
QUICK, SLOW = (0.005, 0.05), (1.0, 30.0)

#: Seconds after which a request counts as slow: leases may run out because of it.
IS_SLOW = 1.0

#: What an answer contains that is none, such as a page of a proxy.
MALFORMED = (
    "<html>",
    None,
    {"Successful": "no"},
    {"Messages": [{"Body": "x"}], "Successful": [{}]},
    {"Failed": [None]},
)


@dataclass
class Faults:
    """The probabilities of faults, until `heal`.

    Attributes:
        random: Draws.
        theme: How often a request is refused, loses its answer, and so on.
        are_over: Whether no request meets a fault any more.
        outages: The operations that SQS refuses altogether, with the ending of the queues' names.
        hanging: Whether SQS accepts requests and answers none.
    """

    random: Random
    theme: Theme
    outages: set[tuple[str, str]] = field(default_factory=set)
    hanging: bool = False
    are_over: bool = False

    def heal(self) -> None:
        """End all faults."""
        self.outages.clear()
        self.hanging, self.are_over = False, True

    @property
    def is_unreachable(self) -> bool:
        """Whether no process can receive anything."""
        return self.hanging or ("receive", "") in self.outages

    def draw(self, operation: str, queue: str) -> str:
        """Return the fault of the next request; empty if it has none."""
        if self.are_over:
            return ""
        if self.hanging:
            return "hang"
        if any(operation == refused and queue.endswith(ending) for refused, ending in self.outages):
            return "refuse"
        drawn = self.random.random()
        for name, probability in self.theme.faults:
            drawn -= probability
            if drawn < 0:
                return name
        return ""

    def latency(self) -> float:
        """Return the seconds that a request takes."""
        is_slow = not self.are_over and self.random.random() < self.theme.slow
        return self.random.uniform(*(SLOW if is_slow else QUICK))

    def interrupts(self) -> bool:
        """Return whether a time limit strikes late: in a request of a settlement."""
        return not self.are_over and self.random.random() < self.theme.interrupt
