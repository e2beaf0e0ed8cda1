"""The processes of a history: dramatiq's worker and ingest, with the product's broker, on simulated threads.

Only the work of the stages is made up, and it takes virtual time.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.middleware import SkipMessage
from dramatiq.worker import Worker

from pipeline.attempt import Attempt
from pipeline.errors import PermanentError, Retry, RetryableError, Snoozed
from pipeline.job import Job
from pipeline.monitoring.health import WORK_WITHIN, Health, IngestHealth, WorkerHealth
from pipeline.settings import Settings
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.queues import Queue, QueueSpec, ensure_queue
from pipeline.sqs.settlement import Delete, Release, SQSMessage
from pipeline.stages import BULK_QUEUES, FETCH, INGEST_DEAD_LETTER_QUEUE, NOTIFY, QUARANTINE_QUEUES, RESIZE, Stage
from pipeline.worker.failures import Failures
from pipeline.worker.ingest import Ingest
from pipeline.worker.messages import Encoder, job_of
from pipeline.worker.registry import set_our_broker
from pipeline.worker.retry import RetryPolicy
from pipeline.worker.stage_actor import message_of, stage_actor
from tests.simulation.client import SimulatedClient
from tests.simulation.kinds import SNOOZE
from tests.simulation.memory_sqs import MemorySQS
from tests.simulation.themes import InputQueue
from tests.simulation.threads import Event, Killed, Thread

if TYPE_CHECKING:
    from tests.simulation.world import World

NAMESPACE = "sim"

#: Short delays, and one of 950 s, which needs a hop.
SETTINGS = Settings(fetch_retry_delays=(2, 10, 950), retry_delays=(1, 5, 30), postback_retry_delays=(5, 30, 300))

STAGES = (FETCH, RESIZE, NOTIFY)

#: Seconds after which an actor goes on that hung: another worker has its message.
DOZE = (WORK_WITHIN + 30.0, WORK_WITHIN + 200.0)

#: The queues that each process consumes, and its threads.
CONSUMED = {
    "worker 1": (("fetch", "notify"), 2),
    "worker 2": (("fetch", "notify"), 2),
    "bulk worker": (("fetch", "fetch_bulk", "notify", "notify_bulk"), 2),
    "giants": (("resize_giant", "resize_giant_bulk"), 1),
    "quarantine": (("fetch_quarantine", "notify_quarantine"), 1),
    "all quarantine": (("fetch_quarantine", "resize_quarantine", "notify_quarantine"), 1),
}


class Process(ABC):
    """One process, from its start to its end. Its first thread does what its command does.

    Attributes:
        name: Its name in the history.
        client: Its SQS client, which knows whether the process is alive.
        broker: Its broker; None until it has started.
        health: What `/livez` and `/readyz` answer; None until it has started.
    """

    def __init__(self, name: str, world: World, client: SimulatedClient) -> None:
        self.name, self.world, self.client = name, world, client
        self.health: Health | None = None
        self.broker: SQSBroker | None = None
        self._stop = Event()
        Thread(client.group, self._main, "main").start()

    def stop(self) -> None:
        """Do what SIGTERM does."""
        self._stop.set()

    @property
    def is_busy(self) -> bool:
        """Whether it works on a message."""
        return bool(self.broker and self.broker.in_hand.working)

    def _main(self) -> None:
        self.broker = make_broker(self)
        self.client.group.enter = partial(set_our_broker, self.broker)
        self.pause([self.world.paused])
        self.run(self.broker)
        self.client.group.has_ended = True

    @abstractmethod
    def pause(self, queues: Sequence[str]) -> None:
        """Receive nothing from these queues, and again from all others."""

    @abstractmethod
    def run(self, broker: SQSBroker) -> None:
        """Do what the command does until it ends."""


class WorkerProcess(Process):
    """A process of `dramatiq pipeline.actors` that consumes some queues."""

    def pause(self, queues: Sequence[str]) -> None:
        if self.broker:
            self.broker.in_hand.pause(queues)

    def run(self, broker: SQSBroker) -> None:
        queues, threads = CONSUMED[self.name]
        worker = Worker(broker, queues=set(queues), worker_threads=threads)
        worker.start()
        self.health = WorkerHealth(broker, worker)
        self._stop.wait()
        worker.stop()


class IngestProcess(Process):
    """A process of `image-pipeline ingest`."""

    _ingest: Ingest | None = None

    def pause(self, queues: Sequence[str]) -> None:
        if self._ingest:
            self._ingest.pause("ingest" in queues)

    def run(self, broker: SQSBroker) -> None:
        assert self.world.theme.input_queue
        self._ingest = ingest = Ingest(
            self.world.sqs.queues[self.world.theme.input_queue.name].url,
            sender=broker.sender,
            rng=self.world.random,
        )
        self.pause([self.world.paused])
        ingest.start()
        self.health = IngestHealth(ingest)
        self._stop.wait()
        ingest.stop()
        ingest.join()


class Settled(dramatiq.Middleware):
    """Notes which messages start, are settled and end."""

    def __init__(self, client: SimulatedClient, world: World) -> None:
        self._client, self._world = client, world

    def after_process_message(self, broker: Any, message: Any, **_: Any) -> None:
        self._client.settled[self._world.scheduler.running] = message.lease.message_id

    def before_process_message(self, broker: Any, message: Any) -> None:
        if message.lease.is_lost:
            self._world.ledger.fail("{} starts a message that it has lost.", self._client.process)

    def before_ack(self, broker: Any, message: Any) -> None:
        if isinstance(message.ending, Delete):
            self._world.ledger.finished(message.lease.message_id)
        self._client.ended_at = self._world.clock.now
        thread = self._world.scheduler.running
        self._client.settled.pop(thread, None)
        if thread in self._client.unsettled:
            self._client.unsettled.discard(thread)
            if self._client.stopping and isinstance(message.ending, Release):
                self._world.ledger.left_unsettled(message.lease.message_id)

    before_nack = before_ack


class Skips(dramatiq.Middleware):
    """Skips the messages of some jobs."""

    def __init__(self, world: World) -> None:
        self._world = world

    def before_process_message(self, broker: Any, message: Any) -> None:
        if self._world.ledger.job_in(message.body).kind.is_skipped:
            raise SkipMessage


def make_broker(process: Process) -> SQSBroker:
    """Make the broker of one process, as `pipeline.worker.broker.build` does."""
    world = process.world
    broker = SQSBroker(
        NAMESPACE,
        lambda: process.client,  # type: ignore[arg-type, return-value]
        Encoder(),
        queues=[
            *(
                Queue(queue, dead_letters=stage.dead_letter_queue, bulk=queue in BULK_QUEUES)
                for stage in STAGES
                for queue in stage.queues
            ),
            Queue("ingest", dead_letters=INGEST_DEAD_LETTER_QUEUE),
        ],
        quarantine=QUARANTINE_QUEUES,
        middleware=[
            Settled(process.client, world),
            Failures(RetryPolicy(world.random), job_of, message_of),
            Skips(world),
        ],
        clock=world.clock,  # type: ignore[arg-type]
        rng=world.random,
    )
    stages = STAGES if "giants" in world.theme.processes else (FETCH, NOTIFY)
    set_our_broker(broker)
    broker.get_declared_queues = lambda: sorted(broker.queue_names)  # type: ignore[method-assign, assignment] # a set
    for stage in stages:
        stage_actor(stage)(partial(work, process, stage))
    return broker


def work(process: Process, stage: Stage, attempt: Attempt) -> Job | None:
    """Simulate the work of a stage, as the kind of the job requires."""
    world, job = process.world, attempt.job
    record = world.ledger.job_in(job.sources[0].url)
    world.scheduler.sleep(world.random.uniform(0, 2) * record.kind.seconds)
    words = {FETCH: record.kind.fetch, NOTIFY: record.kind.notify}.get(stage, ("ok",))
    word = words[min(attempt.number, len(words)) - 1]
    retry = Retry.SOURCE if stage is FETCH else Retry.POSTBACK
    world.ledger.note("ran", record.number, stage.name)
    world.trace.add(process.name, "{} of job {}: {}", stage.name, record.number, word)
    if word == "kill":
        process.client.die()
        raise Killed
    if word in {"hang", "doze"} and not record.has_hung:
        record.has_hung = True
        world.ledger.excuse(world.ledger.messages[_message_of(process, attempt).lease.message_id], "hung")
        process.client.hang(WORK_WITHIN, math.inf if word == "hang" else world.random.uniform(*DOZE))
    if word == "fail":
        raise PermanentError("http_404" if stage is FETCH else "http_410", "It fails.")
    if word == "trouble":
        raise RetryableError("http_500", "It is in trouble.", retry=retry)
    if word == "snooze" and (left := record.arrived + SNOOZE - world.clock.time()) > 0:
        raise Snoozed("busy", "It is not due yet.", left)
    if stage is NOTIFY:
        world.ledger.note("result", record.number)
        return None
    due = {"due": RESIZE.name, "giant": True} if stage is FETCH and record.kind.is_giant else {"due": NOTIFY.name}
    return replace(job, sources=tuple(replace(source, **due) for source in job.sources))


def _message_of(process: Process, attempt: Attempt) -> SQSMessage:
    """Return the message of an attempt in progress."""
    working = process.broker.in_hand.working.values() if process.broker else ()
    return next(each for each in working if (each.message_id, each.began) == (attempt.message_id, attempt.began))


def create_queues(sqs: MemorySQS, input_queue: InputQueue | None) -> None:
    """Create the queues of the service, with the attributes that `provision` gives them, and the input queue."""
    for stage in STAGES:
        dead = f"{NAMESPACE}_{stage.dead_letter_queue}"
        for queue in (*stage.queues, stage.quarantine_queue):
            ensure_queue(sqs, QueueSpec(f"{NAMESPACE}_{queue}", dead))  # type: ignore[arg-type]
    ensure_queue(sqs, QueueSpec(f"{NAMESPACE}_{INGEST_DEAD_LETTER_QUEUE}"))  # type: ignore[arg-type]
    if input_queue:
        url = sqs.create_queue(QueueName=input_queue.dead_letters)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": input_queue.max_receives})
        sqs.create_queue(QueueName=input_queue.name, Attributes={"RedrivePolicy": policy})
