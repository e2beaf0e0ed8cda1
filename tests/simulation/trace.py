"""The history of one seed, kept as it happens and written only if someone reads it."""

from __future__ import annotations

from tests.simulation.clock import VirtualClock


class Trace:
    """All that happened, in order: the virtual time, the process, and a sentence with its values.

    Sentences are put together on reading, because nearly all histories are green and are never read.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._entries: list[tuple[float, str, str, tuple[object, ...]]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, who: str, what: str, *values: object) -> None:
        """Add one entry. `values` fill the placeholders of `what`, so they must not change later."""
        self._entries.append((self._clock.now, who, what, values))

    def __str__(self) -> str:
        return "\n".join(
            f"{now:10.3f}  {who:14} {what.format(*values)}".rstrip() for now, who, what, values in self._entries
        )
