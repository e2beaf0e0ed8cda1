"""Backpressure: while covers wait for resize, fetch starts as many jobs as resize finishes.

A fetch process downloads several times as fast as a core renders. Otherwise a backlog would fill the staging folder at
the speed of fetch. Covers that are rendered soon also cost less: their bytes go where those of earlier ones were, in
memory that the system need not clear again.

This applies to folders of this host. Staging in S3 has room, and asking it would cost requests.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, NamedTuple

import dramatiq
from dramatiq.worker import Worker

from pipeline.events import Event, Outcome, subscribe, unsubscribe
from pipeline.metrics import HELD_BACK
from pipeline.sqs.in_hand import InHand
from pipeline.sqs.loop import Loop
from pipeline.sqs.wire import MAX_BATCH
from pipeline.stages import FETCH, RESIZE, Lane
from pipeline.storage.staging import LocalStaging, staging

#: Covers of each lane that may wait for resize, for each fetch process. Some dozens are on their way through SQS and in
#: the processes of resize, which would wait for covers if there were fewer. A process with more threads stages as many.
AHEAD = 64

#: Seconds between two looks at the folder while a lane is held back.
LOOK_STEP = 0.05

#: Seconds. A cover stops counting once a cover staged this much later has been rendered, because its own job must be
#: waiting for a retry. If nothing is rendered for this long, resize is down and no cover counts. Fetch then stages 64
#: covers every 20 s, so that sources that fail or have not changed still get their results.
LONGEST_WAIT = 20.0

#: The outcomes after which a job may go on to resize: one of its two sources may have failed for good.
_ENDED: Final = (Outcome.DONE, Outcome.GIVEN_UP)


class _Cover(NamedTuple):
    """A staged cover: its key, the key of its renditions, and when it was staged in monotonic seconds."""

    original: str
    rendered: str
    staged_at: float


@dataclass
class _Lane:
    covers: deque[_Cover] = field(default_factory=deque)  #: may still wait for resize
    is_held: bool = False
    moved_at: float = -inf  #: when a cover was last seen to be rendered or gone
    reached: float = -inf  #: when the latest of those was staged


class StagedAhead:
    """The covers that this process has staged and resize has not rendered; a subscriber of `pipeline.events`.

    A lane with `limit` of them is held back: its jobs in fetch and its covers together stay below the limit. It is free
    again when half as many are left. Giants do not count, because they wait in queues of their own.

    Args:
        folder: Where covers are staged.
        let_start: Lets a number of messages of a lane start (`LaneQueue.let_start`).
        in_progress: Returns how many messages of a lane are in progress (`InHand.in_progress`).
        limit: Covers of each lane that may wait for resize.
        now: Returns monotonic seconds.
    """

    def __init__(
        self,
        folder: LocalStaging,
        let_start: Callable[..., None],
        in_progress: Callable[..., int],
        limit: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._let_start, self._in_progress = folder, let_start, in_progress
        self._limit, self._now = limit, now
        self._lanes = {lane: _Lane() for lane in Lane}
        self.on_full: Callable[[], None] = lambda: None  #: called when a lane has reached the limit

    def __call__(self, event: Event) -> None:
        job = event.job
        if (
            event.stage != FETCH.name
            or event.outcome not in _ENDED
            or not job
            or job.due is not RESIZE
            or job.has_giant
        ):
            return
        covers = self._lanes[job.lane].covers
        for source in job.sources:
            if source.due == RESIZE.name:
                rendered = job.staged_key(RESIZE, source, source.known_content)
                covers.append(_Cover(source.original, rendered, self._now()))
        if len(covers) >= self._limit:
            self.on_full()

    def step(self) -> float | None:
        """Look which covers still wait, and hold lanes back or free them; returns the seconds until the next look."""
        for name, lane in self._lanes.items():
            if lane.is_held or len(lane.covers) >= self._limit:
                self._look(lane)
                lane.is_held = len(lane.covers) >= (self._limit / 2 if lane.is_held else self._limit)
                bulk = name is Lane.BULK
                self._let_start(self._room(lane, bulk=bulk) if lane.is_held else inf, bulk=bulk)
                HELD_BACK.labels(name).set(lane.is_held)
        return LOOK_STEP if any(lane.is_held for lane in self._lanes.values()) else None

    def _look(self, lane: _Lane) -> None:
        """Forget the covers that no longer wait, while other threads may add some."""
        now, waiting = self._now(), list[_Cover]()
        for _ in range(len(lane.covers)):
            cover = lane.covers.popleft()
            if self._folder.has(cover.original) and not self._folder.has(cover.rendered):
                waiting.append(cover)
            else:
                lane.moved_at, lane.reached = now, max(lane.reached, cover.staged_at)
        last = lane.reached if lane.moved_at > now - LONGEST_WAIT else now
        lane.covers.extend(cover for cover in waiting if cover.staged_at > last - LONGEST_WAIT)

    def _room(self, lane: _Lane, *, bulk: bool) -> int:
        """Return how many jobs may start: none or a batch, which reaches resize in one request."""
        room = self._limit - len(lane.covers) - self._in_progress(bulk=bulk)
        return room if room >= min(MAX_BATCH, self._limit // 2) else 0


class Backpressure(dramatiq.Middleware):
    """Holds back a process that consumes nothing but fetch, and stages covers in a folder of this host.

    In a process of several stages, covers would hold back the jobs that they wait for.
    """

    def __init__(self) -> None:
        self._ahead: StagedAhead | None = None
        self._loop: Loop | None = None

    def before_worker_boot(self, broker: Any, worker: Worker) -> None:
        """Start to look, after the queue layer has replaced the work queue."""
        queues, folder = worker.consumer_whitelist, staging()
        if not queues or not queues.issubset(FETCH.queues):
            return
        if isinstance(folder, LocalStaging) and folder.is_on_this_host():
            in_hand: InHand = broker.in_hand
            assert in_hand.work_queue  # noqa: S101 - the queue layer has just made it
            let_start, limit = in_hand.work_queue.let_start, max(AHEAD, worker.worker_threads)
            self._ahead = StagedAhead(folder, let_start, in_hand.in_progress, limit)
            self._loop = Loop("backpressure", self._ahead.step)
            self._ahead.on_full = self._loop.wake
            self._loop.start()
            subscribe(self._ahead)

    def after_worker_shutdown(self, broker: Any, worker: Worker) -> None:
        """Stop looking."""
        if self._ahead and self._loop:
            unsubscribe(self._ahead)
            self._loop.end()
            self._ahead = self._loop = None
