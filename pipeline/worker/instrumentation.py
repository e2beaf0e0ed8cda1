"""Metrics and health checks of each kind of process. Importing this module starts nothing.

Dramatiq workers get them from the middleware `Instrumentation`. `ingest` and the scheduler call a function at startup.
"""

from __future__ import annotations

import atexit
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.worker import Worker

from pipeline import metrics
from pipeline.errors import PipelineError
from pipeline.images.codecs import fast_paths
from pipeline.monitoring.health import Health, IngestHealth, SchedulerHealth, WorkerHealth
from pipeline.monitoring.http_server import OpsServer, Refresh
from pipeline.monitoring.processes import process_type
from pipeline.monitoring.queue_depths import DEAD, INGEST, Depth, depths
from pipeline.net.host_limits import host_limiter, receiver_limiter
from pipeline.net.places import Speed, places
from pipeline.settings import Settings, get_settings
from pipeline.sqs.wire import ATTEMPTS
from pipeline.stages import FETCH, NOTIFY, RESIZE, lane_of_queue, stage_of_queue
from pipeline.worker.heartbeats import beating
from pipeline.worker.periodic import Periodic
from pipeline.worker.registry import our_broker

if TYPE_CHECKING:
    from pipeline.worker.ingest import Ingest

logger = logging.getLogger(__name__)

#: Seconds between two requests for the depth of each queue.
DEPTHS_MAX_AGE = 15.0

#: Seconds that a scrape waits for the depths. Prometheus gives up after ten.
DEPTHS_TIMEOUT = 5.0


class Instrumentation(dramatiq.Middleware):
    """Serves the metrics and health checks of a worker.

    Attributes:
        server: The HTTP server, once the worker has booted. It answers until the process ends.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.server: OpsServer | None = None

    def after_worker_boot(self, broker: Any, worker: Worker) -> None:
        """Start the HTTP server."""
        queues = sorted(worker.consumer_whitelist or broker.get_declared_queues())
        process = process_type(queues)
        health = WorkerHealth(broker, worker)
        stages = list(dict.fromkeys(filter(None, map(stage_of_queue, queues))))
        metrics.expect(stage.name for stage in stages)
        refresh: list[Refresh] = [partial(self._refresh, broker, worker, process)]
        if FETCH in stages:
            refresh.append(lambda: metrics.OPEN_CIRCUITS.set(host_limiter().open_circuits))
        if NOTIFY in stages:
            refresh.append(lambda: metrics.OPEN_RECEIVER_CIRCUITS.set(receiver_limiter().open_circuits))
        if FETCH in stages or NOTIFY in stages:
            refresh.append(_refresh_places)
        if RESIZE in stages:
            logger.info("Images: %s", ", ".join(f"{work} by {library}" for work, library in fast_paths().items()))
        self.server = OpsServer(process, queues, health, refresh)
        self.server.start(self._settings)

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Record for a first attempt how long its message has waited."""
        stage = stage_of_queue(message.queue_name)
        if stage and ATTEMPTS not in message.options and not message.is_quarantined:
            lane = lane_of_queue(message.queue_name)
            waited = max(0.0, time.time() - message.message_timestamp / 1000)
            metrics.QUEUE_WAIT_SECONDS.labels(stage.name, lane).observe(waited)

    def _refresh(self, broker: Any, worker: Worker, process: str) -> None:
        metrics.THREADS.labels(process).set(len(worker.workers))
        metrics.BUSY_THREADS.labels(process).set(len(broker.in_hand.running))
        now = time.monotonic()
        for consumer in list(broker.in_hand.consumers):
            oldest = consumer.leases.oldest
            metrics.HELD_MESSAGES.labels(consumer.queue.name).set(len(consumer.leases))
            metrics.OLDEST_HELD_SECONDS.labels(consumer.queue.name).set(now - oldest if oldest else 0)


def _refresh_places() -> None:
    for speed in Speed:
        metrics.BUSY_PLACES.labels(speed.value).set(places().taken(speed))


def serve_ingest(ingest: Ingest | None) -> None:
    """Serve the metrics and health checks of `ingest`, and the depths of all queues.

    The depths are served here because only one `ingest` runs.

    Args:
        ingest: Moves the messages, or None without an input queue.
    """
    settings = get_settings()
    queues = [settings.input_queue_name] if settings.input_queue_name else []
    metrics.expect_ingest()
    OpsServer(INGEST, queues, IngestHealth(ingest), [QueueGauges().refresh]).start(settings)


def serve_scheduler() -> None:
    """Serve the metrics and health checks of the scheduler, at the first call. Each of its actors calls this once.

    It also ends the scheduler on SIGTERM. periodiq keeps the signal's default, which the kernel ignores in the first
    process of a container.
    """
    if not _scheduler_began.is_set():
        _scheduler_began.set()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        actors = our_broker().actors.values()
        periodics = {actor.actor_name: actor.options["periodic"] for actor in actors if "periodic" in actor.options}
        health: Health = SchedulerHealth(periodics)
        OpsServer("scheduler", [], health, [partial(_refresh_schedule, periodics)]).start(get_settings())
        heartbeat = beating(get_settings(), "scheduler", [], health)
        heartbeat.__enter__()
        atexit.register(heartbeat.__exit__, None, None, None)


_scheduler_began = threading.Event()


def _refresh_schedule(periodics: Mapping[str, Periodic]) -> None:
    for name, periodic in periodics.items():
        metrics.SCHEDULE_OVERDUE.labels(name).set(periodic.overdue)
        if periodic.last_sent:
            metrics.SCHEDULE_SENT.labels(name).set(periodic.last_sent.timestamp())


class QueueGauges:
    """The gauges of queue depths. They are absent while SQS does not answer.

    Args:
        ask: Asks SQS for the depths.
        clock: Returns monotonic seconds.
    """

    def __init__(self, ask: Callable[[], list[Depth]] = depths, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._asked = -DEPTHS_MAX_AGE
        self._known: list[Depth] = []
        self._thread: threading.Thread | None = None

    def refresh(self) -> None:
        """Set the gauges from an answer of SQS that is at most `DEPTHS_MAX_AGE` seconds old."""
        if self._clock() - self._asked >= DEPTHS_MAX_AGE and not (self._thread and self._thread.is_alive()):
            self._asked = self._clock()
            self._thread = threading.Thread(target=self._take, name="depths", daemon=True)
            self._thread.start()
        if self._thread:
            self._thread.join(DEPTHS_TIMEOUT)
        known = [] if self._thread and self._thread.is_alive() else self._known
        metrics.QUEUE_MESSAGES.clear()
        metrics.DEAD_LETTERS.clear()
        for depth in known:
            if depth.lane == DEAD:
                metrics.DEAD_LETTERS.labels(depth.queue, depth.stage).set(depth.waiting + depth.in_flight)
            for state in ("waiting", "in_flight", "delayed"):
                gauge = metrics.QUEUE_MESSAGES.labels(depth.queue, depth.stage, depth.lane, state)
                gauge.set(getattr(depth, state))

    def _take(self) -> None:
        try:
            self._known = self._ask()
        except PipelineError as error:
            self._known = []
            logger.warning("The depths of the queues are unknown: %s", error)
        except Exception as error:
            self._known = []
            logger.warning("The depths of the queues are unknown (%s).", type(error).__name__)
