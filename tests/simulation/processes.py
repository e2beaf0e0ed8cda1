"""The processes of a history: the real broker, consumers, leases, settlement and ingest, without threads.

Each loop of the product is a task of the scheduler, and so is each worker thread, which does what dramatiq's
`_WorkerThread.process_message` does. Only the work of the stages is made up, and it takes virtual time.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.middleware import CurrentMessage, SkipMessage, TimeLimitExceeded

from pipeline.errors import PermanentError, Retry, RetryableError, Snoozed
from pipeline.job import Job
from pipeline.settings import Settings
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.in_hand import LaneQueue
from pipeline.sqs.leases import LAST_BACKOFF
from pipeline.sqs.middleware import QueueLayer, settling_of
from pipeline.sqs.queues import Queue, QueueSpec, ensure_queue
from pipeline.sqs.settlement import Settling, SQSMessage
from pipeline.sqs.wire import encode
from pipeline.stages import FETCH, INGEST_DEAD_LETTER_QUEUE, NOTIFY, QUARANTINE_QUEUES, Stage
from pipeline.worker.failures import Failures
from pipeline.worker.ingest import Ingest
from pipeline.worker.messages import Encoder, attempt_of, current_message, job_of
from pipeline.worker.registry import set_our_broker
from pipeline.worker.retry import RetryPolicy
from pipeline.worker.stage_actor import message_of, stage_actor
from tests.simulation.client import Killed, Poll, SimulatedClient
from tests.simulation.kinds import SNOOZE
from tests.simulation.ledger import JobRecord
from tests.simulation.memory_sqs import MemorySQS
from tests.simulation.scheduler import Task
from tests.simulation.themes import InputQueue

if TYPE_CHECKING:
    from tests.simulation.world import World

Step = Callable[[], float | None]
Thread = Generator[float | None, None, None]

NAMESPACE = "sim"

#: Short delays, and one of 1000 s, which needs a hop.
SETTINGS = Settings(fetch_retry_delays=(2, 10, 1000), retry_delays=(1, 5, 30), postback_retry_delays=(5, 30, 300))

STAGES = (FETCH, NOTIFY)
QUARANTINE = {stage.name: QUARANTINE_QUEUES[stage.name] for stage in STAGES}


class Process(ABC):
    """One process, from its start to its end.

    Attributes:
        name: Its name in the history.
        client: Its SQS client, which knows whether the process is alive.
        tasks: Its threads.
        broker: Its broker.
    """

    def __init__(self, name: str, world: World, client: SimulatedClient) -> None:
        self.name = name
        self.world = world
        self.client = client
        self.tasks: list[Task] = []
        self.settlement = Failures(RetryPolicy(SETTINGS, world.random), job_of, message_of)
        self.layer: QueueLayer
        self.broker = make_broker(self)

    @abstractmethod
    def stop(self) -> None:
        """Do what the process does on SIGTERM."""

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether a stopping process has nothing left to do."""

    @property
    def is_busy(self) -> bool:
        """Whether it works on a message."""
        return False

    def hand_on(self) -> None:  # noqa: B027 - ingest has no worker threads
        """Give received messages to the worker threads."""

    def add_task(self, name: str, step: Step) -> Task:
        """Add a thread. It ends with the process."""

        def take() -> float | None:
            set_our_broker(self.broker)
            try:
                wait = step()
            except Killed:
                wait = None
            self.world.after_step(self)
            return wait

        task = self.world.scheduler.add(f"{self.name} {name}", take)
        self.tasks.append(task)
        return task


class SimulatedLoop:
    """Has the interface of `pipeline.sqs.loop.Loop`, and is stepped by the scheduler.

    After a receive that finds nothing, the thread does nothing until a message can be received: it makes a long poll,
    or short polls with the longest pauses, from which it can be woken.
    """

    is_alive = True
    late = 0.0

    def __init__(self, process: Process, name: str, step: Step, clock: object) -> None:
        self._process, self.name, self._step = process, name, step
        self._poll: Poll | None = None
        self._task: Task | None = None

    def start(self) -> None:
        self._task = self._process.add_task(self.name, self._step_or_poll)

    def wake(self) -> None:
        if self._poll and not self._poll.is_long:
            self.end_poll()
        if self._task and not self._poll:
            self._task.wake()

    def end_poll(self) -> float:
        """Let a poll end without a message; returns the seconds until a short one is repeated."""
        poll, self._poll = self._poll, None
        return poll.end(self._task, self._process.world.clock.now) if poll and self._task else 0.0

    def join(self, timeout: float) -> None:
        """The scheduler runs no step meanwhile."""

    def end(self, timeout: float = 0.0) -> None:
        self.is_alive = False
        if self._task:
            self._process.world.scheduler.remove([self._task])

    def _step_or_poll(self) -> float | None:
        process, task, now = self._process, self._task, self._process.world.clock.now
        if self._poll and (wait := self._poll.remaining(now) or self.end_poll()):
            return wait
        process.client.poll, process.client.has_received = None, False
        pause = self._step()
        if process.client.has_received:
            process.hand_on()
        poll = process.client.poll
        if poll and task and (poll.is_long or (pause or 0.0) >= LAST_BACKOFF / 2):
            self._poll = poll
            return poll.begin(task, now, pause or 0.0)
        return pause


class WorkerProcess(Process):
    """A process of `dramatiq pipeline.actors` that consumes some queues."""

    def __init__(
        self, name: str, world: World, client: SimulatedClient, *, queues: Sequence[str], threads: int
    ) -> None:
        super().__init__(name, world, client)
        self._lanes = LaneQueue(
            lambda queue: self.broker.queues[queue].bulk, self.broker.in_hand.wake, self.broker.in_hand.stopping
        )
        self.broker.in_hand.work_queue = self._lanes
        self._consumers = {queue: self.broker.consume(queue, prefetch=2 * threads) for queue in queues}
        self._busy = 0
        self._threads = [self._add_thread(f"thread {number}", self._work()) for number in range(1, threads + 1)]

    def _add_thread(self, name: str, thread: Thread) -> Task:
        return self.add_task(name, lambda: next(thread))

    def hand_on(self) -> None:
        """Do what dramatiq's consumer threads do."""
        for consumer in self._consumers.values():
            while message := consumer.take():
                self._lanes.put(_Waiting(next(_numbers), message))
        if self._lanes.queue:
            for task in self._threads:
                if task.is_idle:
                    task.wake()

    def stop(self) -> None:
        self.layer.before_worker_shutdown(self.broker, SimpleNamespace(work_queue=self._lanes))
        for task in self._threads:
            task.wake()
        self._close_if_done()

    @property
    def is_busy(self) -> bool:
        return self._busy > 0

    @property
    def is_over(self) -> bool:
        return not self._busy and all(consumer.leases.is_idle for consumer in self._consumers.values())

    def _close_if_done(self) -> None:
        if self.client.stopping and not self._busy:
            for consumer in self._consumers.values():
                consumer.leases.close()

    def _work(self) -> Thread:
        """One worker thread."""
        while True:
            if not self._lanes.queue:
                yield None
                continue
            message = self._lanes.get_nowait().message
            self._busy += 1
            yield from self._process_message(message)
            self._busy -= 1
            self._close_if_done()

    def _process_message(self, message: SQSMessage) -> Thread:
        broker, consumer = self.broker, self._consumers[message.queue_name]
        error: BaseException | None = None
        try:
            broker.emit_before("process_message", message)
        except SkipMessage:
            consumer.ack(message)
            return
        except Exception as failure:
            error = failure
        if error is None:
            yield from self._pause(self.world.random.uniform(0, 2) * self._seconds(message))
            error = self._run_actor(message)
        self.settlement.after_process_message(broker, message, exception=error)
        settling = settling_of(broker, message, error)
        while not message.lease.is_lost and (wait := self._step_settlement(settling, message)) is not None:
            yield wait
            if broker.in_hand.stopping.is_set():
                self.world.ledger.left_unsettled(message.lease.message_id)
                break
        else:
            message.ending = settling.ending
        consumer.ack(message)

    def _step_settlement(self, settling: Settling, message: SQSMessage) -> float | None:
        """Take one step. A time limit that strikes here ends dramatiq's hooks, and the message is acknowledged."""
        self.client.settled = message.lease.message_id
        try:
            return settling.step()
        except TimeLimitExceeded:
            return None
        finally:
            self.client.settled = ""

    def _pause(self, seconds: float) -> Thread:
        """Let time pass. A stop does not shorten it."""
        until = self.world.clock.now + seconds
        while (left := until - self.world.clock.now) > 0:
            yield left

    def _run_actor(self, message: SQSMessage) -> BaseException | None:
        current = CurrentMessage()
        current.before_process_message(self.broker, message)
        try:
            self.broker.get_actor(message.actor_name)(*message.args, **message.kwargs)
        except Exception as error:
            return error
        finally:
            current.after_process_message(self.broker, message)
        return None

    def _seconds(self, message: SQSMessage) -> float:
        return self.world.ledger.job_in(message.body).kind.seconds


class IngestProcess(Process):
    """A process of `image-pipeline ingest`."""

    def __init__(self, name: str, world: World, client: SimulatedClient) -> None:
        super().__init__(name, world, client)
        self._loops: list[SimulatedLoop] = []
        url = world.sqs.queues[world.theme.input_queue.name].url
        self._ingest = Ingest(
            url,
            sender=self.broker.sender,
            rng=world.random,
            loop=self._make_loop,
        )
        for loop in self._loops:  # `Ingest.run` does this in threads
            loop.start()

    def _make_loop(self, name: str, step: Step, clock: object) -> SimulatedLoop:
        self._loops.append(SimulatedLoop(self, name, step, clock))
        return self._loops[-1]

    def stop(self) -> None:
        self._ingest.stop()
        for loop in self._loops:
            loop.end_poll()
            loop.wake()

    @property
    def is_over(self) -> bool:
        return self._ingest.receiver.leases.is_idle


_numbers = count()


@dataclass(order=True)
class _Waiting:
    """An item of dramatiq's work queue."""

    number: int
    message: SQSMessage = field(compare=False)


def make_broker(process: Process) -> SQSBroker:
    """Make the broker of one process, as `pipeline.worker.broker.build` does."""
    world = process.world
    broker = SQSBroker(
        NAMESPACE,
        lambda: process.client,  # type: ignore[arg-type, return-value]
        Encoder(),
        queues=[
            *(Queue(stage.name, dead_letters=stage.dead_letter_queue) for stage in STAGES),
            Queue("ingest", dead_letters=INGEST_DEAD_LETTER_QUEUE),
        ],
        quarantine=QUARANTINE,
        middleware=[process.settlement],
        clock=world.clock,  # type: ignore[arg-type]
        rng=world.random,
        loop=partial(SimulatedLoop, process),  # type: ignore[arg-type]
        window=0.0,
    )
    process.layer = next(one for one in broker.middleware if isinstance(one, QueueLayer))
    set_our_broker(broker)
    for stage in STAGES:
        stage_actor(stage)(partial(work, process, stage))
    return broker


def work(process: Process, stage: Stage, job: Job) -> Job | None:
    """Simulate the work of a stage, as the kind of the job requires."""
    record = process.world.ledger.job_in(job.sources[0].url)
    words = record.kind.fetch if stage is FETCH else record.kind.notify
    word = words[min(attempt_of(current_message()), len(words)) - 1]
    retry = Retry.SOURCE if stage is FETCH else Retry.POSTBACK
    record.runs += stage is FETCH
    process.world.trace.add(process.name, "{} of job {}: {}", stage.name, record.number, word)
    if word == "kill":
        process.client.die()
        raise Killed
    if word == "fail":
        raise PermanentError("http_404" if stage is FETCH else "http_410", "It fails.")
    if word == "trouble":
        raise RetryableError("http_500", "It is in trouble.", retry=retry)
    if word == "snooze" and (left := record.arrived + SNOOZE - process.world.clock.now) > 0:
        raise Snoozed("busy", "It is not due yet.", left)
    if stage is NOTIFY:
        record.results += 1
        return None
    return replace(job, sources=tuple(replace(source, due=NOTIFY.name) for source in job.sources))


def create_queues(sqs: MemorySQS, input_queue: InputQueue | None) -> None:
    """Create the queues of the service, with the attributes that `provision` gives them, and the input queue."""
    for stage in STAGES:
        dead = f"{NAMESPACE}_{stage.dead_letter_queue}"
        for queue in (stage.name, QUARANTINE[stage.name]):
            ensure_queue(sqs, QueueSpec(f"{NAMESPACE}_{queue}", dead))  # type: ignore[arg-type]
    ensure_queue(sqs, QueueSpec(f"{NAMESPACE}_{INGEST_DEAD_LETTER_QUEUE}"))  # type: ignore[arg-type]
    if input_queue:
        url = sqs.create_queue(QueueName=input_queue.dead_letters)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": input_queue.max_receives})
        sqs.create_queue(QueueName=input_queue.name, Attributes={"RedrivePolicy": policy})


def sent_by_producer(job: JobRecord, world: World) -> tuple[str, dict[str, Any]]:
    """Return the queue and the entry with which a producer sends a job."""
    payload = {"image_url": f"https://h.test/job-{job.number}", "postback_url": "https://r.test/"}
    if job.kind.body == "bad payload":
        payload = {"title": f"https://h.test/job-{job.number}", "postback_url": "https://r.test/"}
    garbage = f"neither JSON nor a message: /job-{job.number}" if job.kind.body == "garbage" else None
    if queue := world.theme.input_queue:
        body = garbage or json.dumps(payload)
        fifo = {"MessageGroupId": f"g{job.number % 2}", "MessageDeduplicationId": str(job.number)}
        return queue.name, {"MessageBody": body} | (fifo if queue.name.endswith(".fifo") else {})
    message = dramatiq.Message(
        queue_name=FETCH.name,
        actor_name=FETCH.actor,
        args=(payload,),
        kwargs={},
        options={},
        message_id=f"message of job {job.number}",
        message_timestamp=int(world.clock.time() * 1000),
    )
    return f"{NAMESPACE}_{FETCH.name}", {"MessageBody": garbage or encode(message)}
