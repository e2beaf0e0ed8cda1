"""Heartbeats of workers, `ingest` and the scheduler, where there is a job log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any

import dramatiq
from dramatiq.worker import Worker

from pipeline.monitoring.health import Health, WorkerHealth
from pipeline.monitoring.orders import read
from pipeline.monitoring.pauses import paused
from pipeline.monitoring.processes import Heartbeat, InProgress, Resting, Work, process_type, stage_name
from pipeline.monitoring.retrying import being_retried
from pipeline.net.host_limits import host_limiter, receiver_limiter
from pipeline.settings import Settings
from pipeline.sqs.in_hand import InHand
from pipeline.sqs.settlement import SQSMessage
from pipeline.worker.orders import following

#: Maximum number of reasons to report.
MAX_TROUBLE = 3

#: Maximum number of resting hosts to report, of sources and of receivers.
MAX_RESTING = 20

#: Seconds that the last heartbeat may take: honcho kills a process 5 s after asking it to stop.
STOP_TIMEOUT = 1.0


class Heartbeats(dramatiq.Middleware):
    """Writes the heartbeats of a worker: what each of its threads works on, and when it last took a message."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._heartbeat: Heartbeat | None = None

    def after_worker_boot(self, broker: Any, worker: Worker) -> None:
        if self._settings.jobs_mongo_url is None:
            return
        queues = sorted(worker.consumer_whitelist or broker.get_declared_queues())
        look = partial(work_of, broker.in_hand, WorkerHealth(broker, worker))

        def obey() -> None:
            orders = read()
            following().follow(orders)
            broker.in_hand.pause([queue for queue in queues if stage_name(queue) in orders.paused])

        stages = sorted(set(map(stage_name, queues)))
        self._heartbeat = Heartbeat(process_type(queues), stages, worker.worker_threads, look, obey)
        self._heartbeat.start()

    def before_worker_shutdown(self, broker: Any, worker: Worker) -> None:
        """Report the end when it begins, because a supervisor may kill the process before its polls have ended."""
        if self._heartbeat:
            self._heartbeat.stop(STOP_TIMEOUT)


def work_of(in_hand: InHand, health: Health) -> Work:
    """Return the state of a worker for its heartbeat."""
    taken: dict[str, datetime] = {}
    for queue, at in list(in_hand.started.items()):
        stage, at_utc = stage_name(queue), datetime.fromtimestamp(at, UTC)
        taken[stage] = max(at_utc, taken.get(stage, at_utc))
    in_progress, resting = tuple(map(_in_progress, in_hand.running)), tuple(_resting())
    return Work(taken, in_progress, _trouble(health), resting, being_retried().current(), tuple(_paused(in_hand)))


def _paused(in_hand: InHand) -> list[str]:
    """Return the paused stages whose receivers are quiet. A long poll that is out may still bring messages."""
    paused = in_hand.paused
    active = {
        stage_name(each.queue.name)
        for each in list(in_hand.consumers)
        if each.queue.name not in paused or each.receiver.unanswered_since is not None or len(each.leases)
    }
    return sorted(set(map(stage_name, paused)) - active)


def _in_progress(message: SQSMessage) -> InProgress:
    job = message.original.kwargs.get("job")
    job_id = str(job.get("id", "")) if isinstance(job, dict) else message.message_id
    return InProgress(stage_name(message.queue_name), job_id[:100], datetime.fromtimestamp(message.began_at, UTC))


def _resting() -> Iterator[Resting]:
    now = datetime.now(UTC)
    for kind, limiter in (("source", host_limiter()), ("receiver", receiver_limiter())):
        for host in limiter.resting()[:MAX_RESTING]:
            since = now - timedelta(seconds=host.seconds)
            yield Resting(kind, host.name, since, host.waiting)


@contextmanager
def beating(
    settings: Settings,
    type_: str,
    stages: Iterable[str],
    health: Health,
    *,
    taken_at: Callable[[], datetime | None] = lambda: None,
    pause: Callable[[bool], None] = lambda _: None,
) -> Iterator[None]:
    """Write the heartbeats of a process with one thread inside the context.

    Args:
        settings: the settings; without a job log, nothing is written.
        type_: type of the process.
        stages: the stages whose messages it takes, at most one.
        health: the health of the process.
        taken_at: returns when it last took messages.
        pause: called with whether its stage is paused.
    """
    stages = list(stages)
    obeyed: tuple[str, ...] = ()

    def look() -> Work:
        at = taken_at()
        return Work({stage: at for stage in stages if at}, (), _trouble(health), paused=obeyed)

    def obey() -> None:
        nonlocal obeyed
        obeyed = tuple(paused().keys() & set(stages))
        pause(bool(obeyed))

    heartbeat = Heartbeat(type_, stages, 1, look, obey) if settings.jobs_mongo_url else None
    if heartbeat:
        heartbeat.start()
    try:
        yield
    finally:
        if heartbeat:
            heartbeat.stop(STOP_TIMEOUT)


def _trouble(health: Health) -> tuple[str, ...]:
    return tuple(islice((*health.not_live(), *health.not_ready()), MAX_TROUBLE))
