"""The four stages and all queues, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Lane(StrEnum):
    """The queue of a stage that a job travels in: each stage has two."""

    LIVE = "live"  #: someone waits for the result
    BULK = "bulk"  #: jobs of sweeps


#: Ends the names of queues for giants: images that take so much CPU that others should not wait behind them.
GIANT = "giant"

#: Type of the process that takes the giants of all stages.
GIANTS = "giants"

#: Ends the names of queues for messages that were received often, perhaps because they kill their workers.
QUARANTINE = "quarantine"


def dead_letter_queue_of(queue: str) -> str:
    """Return the name of the dead-letter queue that all queues of a stage share, all without the namespace."""
    for ending in (Lane.BULK.value, GIANT, QUARANTINE):
        queue = queue.removesuffix(f"_{ending}")
    return f"{queue}_dlq"


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: its name, and that of its live queue without the namespace.
        actor: the name of the actor that does its work.
        time_limit: seconds until the actor is interrupted. This is well above the sum of the timeouts inside, so it
            only ends actors that hang.
        has_giants: whether giants have queues of their own here.
    """

    name: str
    actor: str
    time_limit: int
    has_giants: bool = False

    def queue(self, lane: Lane = Lane.LIVE, *, giant: bool = False) -> str:
        """Return the name of a queue without the namespace: `fetch`, `fetch_bulk` or `resize_giant_bulk`."""
        name = f"{self.name}_{GIANT}" if giant and self.has_giants else self.name
        return name if lane is Lane.LIVE else f"{name}_{lane.value}"

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues of both lanes, and those of giants."""
        sizes = (False, True) if self.has_giants else (False,)
        return tuple(self.queue(lane, giant=giant) for giant in sizes for lane in Lane)

    @property
    def quarantine_queue(self) -> str:
        """The queue for messages that were received often in any of its queues."""
        return f"{self.name}_{QUARANTINE}"

    @property
    def dead_letter_queue(self) -> str:
        """The queue for messages of both lanes that the stage gave up on."""
        return dead_letter_queue_of(self.name)


FETCH = Stage("fetch", actor="fetch_image", time_limit=300)
RESIZE = Stage("resize", actor="resize_image", time_limit=300, has_giants=True)
UPLOAD = Stage("upload", actor="upload_image", time_limit=300)
NOTIFY = Stage("notify", actor="notify_result", time_limit=300)

#: In the order that a job passes them.
STAGES = (FETCH, RESIZE, UPLOAD, NOTIFY)

#: The queues of the bulk lane.
BULK_QUEUES = frozenset(queue for stage in STAGES for queue in stage.queues if queue.endswith(f"_{Lane.BULK.value}"))

#: The queues of giants, of both lanes.
GIANT_QUEUES = frozenset(RESIZE.queue(lane, giant=True) for lane in Lane)

#: The quarantine queue of each queue of a stage.
QUARANTINE_QUEUES = {queue: stage.quarantine_queue for stage in STAGES for queue in stage.queues}

_STAGES_BY_QUEUE = {queue: stage for stage in STAGES for queue in (*stage.queues, stage.quarantine_queue)}

#: The queue for input messages that `ingest` rejected.
INGEST_DEAD_LETTER_QUEUE = dead_letter_queue_of("ingest")


def own_queues() -> set[str]:
    """Return the names, without the namespace, of all queues of the service except the input queue."""
    return {
        *(queue for stage in STAGES for queue in (*stage.queues, stage.quarantine_queue)),
        *SWEEP_QUEUES,
        *DEAD_LETTER_QUEUES.values(),
    }


def lane_of_queue(queue_name: str) -> Lane:
    """Return the lane of a stage's queue (without the namespace)."""
    return Lane.BULK if queue_name in BULK_QUEUES else Lane.LIVE


def stage_of_queue(queue_name: str) -> Stage | None:
    """Return the stage that consumes `queue_name` (without the namespace), which may be its quarantine, or None."""
    return _STAGES_BY_QUEUE.get(queue_name)


#: The queues of the two sweeps. They are separate so that no backlog of images delays a sweep.
SWEEP_QUEUES = ("sweep_channels", "sweep_episodes")

#: The actor of re-checks. It shares the queue of the first sweep, because its pages are as short.
RECHECK_ACTOR = "sweep_recheck"

#: The queue of each actor of a sweep.
SWEEP_ACTORS = {**{queue: queue for queue in SWEEP_QUEUES}, RECHECK_ACTOR: SWEEP_QUEUES[0]}

#: Dead-letter queues by the names that commands accept, in the order that a job passes them.
DEAD_LETTER_QUEUES: dict[str, str] = {
    "ingest": INGEST_DEAD_LETTER_QUEUE,
    **{stage.name: stage.dead_letter_queue for stage in STAGES},
    **{queue: dead_letter_queue_of(queue) for queue in SWEEP_QUEUES},
}
