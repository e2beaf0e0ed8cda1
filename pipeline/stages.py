"""The four stages, as data. Actors, retries, the command line and the tests of the Procfile read them from here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Lane(StrEnum):
    """Which of a stage's two queues a job travels in."""

    LIVE = "live"  #: somebody waits for it
    BULK = "bulk"  #: a sweep's


def dead_letter_queue_of(queue: str) -> str:
    """Return the name of the dead-letter queue that both lanes of `queue` share, all without the namespace."""
    return f"{queue.removesuffix(f'_{Lane.BULK.value}')}_dlq"


@dataclass(frozen=True)
class Stage:
    """One stage: the actor that does its work, and how long that may take.

    `time_limit` is in seconds: well above what the work's own limits add up to, so that it only ends what hangs.
    """

    name: str
    actor: str
    time_limit: int

    def queue(self, lane: Lane = Lane.LIVE) -> str:
        """The name of the stage's queue, without the namespace: `fetch` or `fetch_bulk`."""
        return self.name if lane is Lane.LIVE else f"{self.name}_{lane.value}"

    @property
    def queues(self) -> tuple[str, ...]:
        """Both queues that the stage's workers consume."""
        return tuple(self.queue(lane) for lane in Lane)

    @property
    def dead_letter_queue(self) -> str:
        """Where messages of both lanes end that the stage gave up."""
        return dead_letter_queue_of(self.name)


FETCH = Stage("fetch", actor="fetch_image", time_limit=300)
RESIZE = Stage("resize", actor="resize_image", time_limit=300)
UPLOAD = Stage("upload", actor="upload_image", time_limit=300)
NOTIFY = Stage("notify", actor="notify_result", time_limit=300)

#: In the order a job passes them.
STAGES = (FETCH, RESIZE, UPLOAD, NOTIFY)

#: The queues of the bulk lane.
BULK_QUEUES = frozenset(stage.queue(Lane.BULK) for stage in STAGES)

#: Where `ingest` keeps input messages that it had to refuse.
INGEST_DEAD_LETTER_QUEUE = dead_letter_queue_of("ingest")


def own_queues() -> set[str]:
    """The names, without the namespace, of every queue of the service but the input queue."""
    return {*(queue for stage in STAGES for queue in stage.queues), *SWEEP_QUEUES, *DEAD_LETTER_QUEUES.values()}


def stage_of_queue(queue_name: str) -> Stage | None:
    """The stage that consumes `queue_name` (without the namespace), or None."""
    return next((stage for stage in STAGES if queue_name in stage.queues), None)


#: The queues of the two sweeps, each its own so that no backlog of images delays it.
SWEEP_QUEUES = ("sweep_channels", "sweep_episodes")

#: Where messages lie that were given up or refused, by what people call the place, in the order a job passes them.
DEAD_LETTER_QUEUES: dict[str, str] = {
    "ingest": INGEST_DEAD_LETTER_QUEUE,
    **{stage.name: stage.dead_letter_queue for stage in STAGES},
    **{queue: dead_letter_queue_of(queue) for queue in SWEEP_QUEUES},
}
