"""The memory of downloads: one budget for the whole process, whatever the number of its threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from pipeline.errors import Snoozed
from pipeline.net.places import Crowd
from pipeline.settings import get_settings
from pipeline.stages import Lane

#: Bytes that each download may hold without asking, so that large sources never delay ordinary covers.
FREE_BYTES = 2_097_152

#: Bytes by which a download asks for more.
STEP_BYTES = 2_097_152

#: Seconds between two snoozed jobs that return for memory. A source of 50 MB holds its bytes for about that long.
STEP_SECONDS = 1.0


class DownloadMemory:
    """Bounds the bytes that all downloads of this process hold together.

    The bytes are counted as they arrive. A source that promises 50 MB and drips holds only the bytes it has sent.

    Args:
        limit: The bytes beyond `FREE_BYTES` that all downloads may hold together.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._crowd = Crowd()
        self._lock = threading.Lock()

    @contextmanager
    def share(self, lane: Lane = Lane.LIVE) -> Iterator[Share]:
        """Return a share that grows with one download. It is given back at the end of the block."""
        share = Share(self, lane)
        try:
            yield share
        finally:
            self._give_back(share.size)

    def _take(self, size: int, lane: Lane, *, room_for: int) -> None:
        with self._lock:
            if room_for > self._left:
                wait = self._crowd.snooze(lane, STEP_SECONDS, time.monotonic())
                raise Snoozed("memory_busy", "Other downloads of this process hold too many bytes.", wait)
            self._left -= size

    def _give_back(self, size: int) -> None:
        with self._lock:
            self._left += size
            if size:
                self._crowd.disperse()


class Share:
    """The bytes that one download holds of the budget."""

    def __init__(self, memory: DownloadMemory, lane: Lane = Lane.LIVE) -> None:
        self._memory = memory
        self._lane = lane
        self.size = 0

    def promise(self, size: int) -> None:
        """Check whether there is room for a download of `size` bytes now. Nothing is reserved.

        Raises:
            Snoozed: `memory_busy`.
        """
        self._memory._take(0, self._lane, room_for=size - FREE_BYTES)

    def grow(self, size: int) -> None:
        """Make room for a download of `size` bytes.

        Raises:
            Snoozed: `memory_busy`.
        """
        while size > FREE_BYTES + self.size:
            self._memory._take(STEP_BYTES, self._lane, room_for=STEP_BYTES)
            self.size += STEP_BYTES


@cache
def download_memory() -> DownloadMemory:
    """Return the budget of this process."""
    settings = get_settings()
    return DownloadMemory(max(settings.fetch_memory_bytes, settings.max_source_bytes))
