"""Pauses fetch while a local staging folder has little room.

Fetch is several times as fast as resize, so a backlog would fill the folder. In a pause it receives nothing more, and
the other jobs wait in SQS. S3 has room, so staging there is not watched.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import dramatiq
from dramatiq.worker import Worker

from pipeline.sqs.loop import Loop
from pipeline.stages import FETCH
from pipeline.storage.staging import LocalStaging, staging

logger = logging.getLogger(__name__)

#: Seconds between two looks at the folder.
INTERVAL: Final = 1.0

#: Files younger than an hour at which fetch pauses. Older ones belong to jobs that were given up or wait for a retry.
MAX_COVERS: Final = 2_000

#: Free bytes below which fetch pauses, on file systems that are large enough: its threads may stage a cover each, and
#: each has another message in hand. Small file systems keep a quarter, and larger ones a tenth, if that is more.
MIN_FREE: Final = 256 * 1024 * 1024

#: Free bytes at which fetch never begins a pause: a tenth of a large disk that other programs use may never be free.
MAX_FREE: Final = 2 * 1024 * 1024 * 1024

#: The side that asks for these pauses, besides the operator and others.
SIDE: Final = "staging"


class StagingRoom(dramatiq.Middleware):
    """Watches the staging folder of a worker that fetches."""

    def __init__(self) -> None:
        self._loop: Loop | None = None

    def after_worker_boot(self, broker: Any, worker: Worker) -> None:
        """Start to watch."""
        queues = (worker.consumer_whitelist or broker.get_declared_queues()) & set(FETCH.queues)
        folder = staging()
        if queues and isinstance(folder, LocalStaging):
            pause = partial(broker.in_hand.pause, queues)
            self._loop = Loop("staging-room", Watch(folder, pause, lambda: bool(broker.in_hand.working)).step)
            self._loop.start()

    def after_worker_shutdown(self, broker: Any, worker: Worker) -> None:
        """Stop watching, and end a pause."""
        if self._loop:
            self._loop.end()
            self._loop.join(INTERVAL)
            broker.in_hand.pause((), by=SIDE)  # another worker of this process starts without this one's pause


class Watch:
    """Decides when fetch pauses and when it goes on.

    Args:
        folder: The staging folder.
        pause: Called with the reason when a pause begins, as `why`, and with an empty one when it ends.
        is_busy: Returns whether threads may be staging covers.
        usage: Returns the sizes of the folder's file system, as `shutil.disk_usage` does.
    """

    def __init__(
        self,
        folder: LocalStaging,
        pause: Callable[..., None],
        is_busy: Callable[[], bool],
        usage: Callable[[Any], Any] = shutil.disk_usage,
    ) -> None:
        self._folder, self._pause, self._is_busy, self._usage = folder, pause, is_busy, usage
        self._why = ""

    def step(self) -> float:
        """Look at the folder, and begin or end a pause. It ends once there is twice the room that avoids a pause."""
        if self._why or self._is_busy():
            why = self._trouble(2 if self._why else 1)
            if bool(why) != bool(self._why):
                log = logger.warning if why else logger.info
                log("Fetch %s", f"pauses: {why}." if why else "goes on: the staging folder has room again.")
            self._pause(by=SIDE, why=why)  # the figures of the reason change
            self._why = why
        return INTERVAL

    def _trouble(self, factor: int) -> str:
        """Return why fetch should pause; `factor` 2 asks for twice the room that avoids a pause."""
        try:
            disk = self._usage(self._folder.folder)
            if disk.free < factor * _least_free(disk.total):
                return f"the file system of the staging folder has {disk.free / 1e6:,.0f} MB left"
            files = self._folder.count_young()
        except OSError:  # the folder is made at the first write, which reports what is wrong with it
            return ""
        if files * factor > MAX_COVERS:
            return f"the staging folder holds {files:,} files younger than an hour"
        return ""


def _least_free(total: int) -> int:
    """Return the free bytes below which fetch pauses on a file system of this size."""
    return min(max(total // 10, min(MIN_FREE, total // 4)), MAX_FREE)
