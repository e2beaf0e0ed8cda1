"""Health and gauges of a process whose threads work, wait, hang and end."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dramatiq
import pytest
import requests
from botocore.exceptions import BotoCoreError, ClientError
from dramatiq.worker import Worker

from pipeline.clients import aws
from pipeline.metrics import PREFIX, REGISTRY
from pipeline.monitoring import health
from pipeline.monitoring.health import IngestHealth, SchedulerHealth, WorkerHealth
from pipeline.settings import Settings
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.consumer import SQSConsumer
from pipeline.storage import s3 as objects
from pipeline.worker import instrumentation
from pipeline.worker.ingest import Ingest
from pipeline.worker.instrumentation import Instrumentation
from pipeline.worker.periodic import Periodic
from tests.integration.conftest import LONG_POLL
from tests.support.echo import message
from tests.support.line import Line
from tests.support.waiting import wait_for
from tests.unit.monitoring.test_http_server import free_port


class Rig:
    """A worker of the queue `fetch` whose messages block until the test sets `go_on`."""

    def __init__(self, namespace: str, port: int) -> None:
        self.port = port
        self.go_on = threading.Event()
        self.instrumentation = Instrumentation(Settings(metrics_port=port))
        self.broker = SQSBroker(namespace, aws.sqs, middleware=[self.instrumentation])
        dramatiq.actor(self.work, actor_name="echo", queue_name="fetch", broker=self.broker)
        self.worker = Worker(self.broker, worker_threads=2, worker_timeout=100)
        self.worker.start()
        self.health = WorkerHealth(self.broker, self.worker)

    def work(self, name: str) -> None:
        assert self.go_on.wait(60)

    def stop(self) -> None:
        self.worker.stop()
        assert self.instrumentation.server
        self.instrumentation.server.close()

    @property
    def consumer(self) -> SQSConsumer:
        (consumer,) = self.broker.in_hand.consumers
        return consumer

    def send(self, *names: str) -> None:
        assert not any(self.broker.enqueue_many([message(name, queue_name="fetch") for name in names]))

    def get(self, path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)

    def value(self, name: str, **labels: str) -> float | None:
        self.get("/metrics")
        return REGISTRY.get_sample_value(f"{PREFIX}_{name}", labels)


@pytest.fixture
def rig(line: Line, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    rig = Rig(environment["QUEUE_NAMESPACE"], free_port())
    wait_for(lambda: rig.broker.in_hand.consumers)
    yield rig
    rig.go_on.set()
    line.come_up()
    rig.stop()


def test_a_worker_shows_its_messages_in_progress_and_their_wait(rig: Rig) -> None:
    waited = REGISTRY.get_sample_value(f"{PREFIX}_queue_wait_seconds_count", {"stage": "fetch", "lane": "live"}) or 0
    rig.send("a", "b", "c")
    wait_for(lambda: rig.value("held_messages", queue="fetch") == 3)
    wait_for(lambda: rig.value("busy_threads", process="fetch") == 2)
    assert rig.value("threads", process="fetch") == 2
    wait_for(lambda: (rig.value("oldest_held_seconds", queue="fetch") or 0) > 0)
    assert rig.value("queue_wait_seconds_count", stage="fetch", lane="live") == waited + 2
    rig.go_on.set()
    wait_for(lambda: rig.value("held_messages", queue="fetch") == 0)
    wait_for(lambda: rig.value("busy_threads", process="fetch") == 0)
    assert rig.value("oldest_held_seconds", queue="fetch") == 0
    assert rig.value("queue_wait_seconds_count", stage="fetch", lane="live") == waited + 3


def test_a_worker_is_always_live_and_ready_while_sqs_answers(
    rig: Rig, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker that is ready because it has found its queue
    wait_for(lambda: rig.get("/readyz").ok)
    # When SQS is down, then after a while the worker is not ready, gives the reason, and is live;
    monkeypatch.setattr(health, "ANSWER_WITHIN", 2.0)
    with line.down():
        wait_for(lambda: rig.get("/readyz").status_code == 503)
        assert rig.get("/readyz").text == "fetch: no answer from SQS for more than 2 s\n"
        assert rig.get("/livez").ok
    # and when SQS is back, the worker is ready at the first answer.
    wait_for(lambda: rig.get("/readyz").ok)


def test_a_busy_worker_that_does_not_poll_is_ready(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.send("a", "b", "c")
    wait_for(lambda: len(rig.consumer.leases) == 3)  # more than half of four places
    wait_for(lambda: rig.consumer.receiver.unanswered_since is None)
    monkeypatch.setattr(health, "ANSWER_WITHIN", 0.0)
    assert rig.get("/readyz").ok


def test_a_worker_that_has_not_found_its_queue_is_not_ready(line: Line, environment: dict[str, str]) -> None:
    with line.down():
        rig = Rig(environment["QUEUE_NAMESPACE"], free_port())
        try:
            wait_for(lambda: rig.broker.in_hand.consumers)
            assert (rig.get("/readyz").text, rig.get("/livez").ok) == (
                "fetch: the queue has not been reached yet\n",
                True,
            )
        finally:
            line.come_up()
            rig.stop()


def test_a_stopping_worker_is_live_and_not_ready(rig: Rig) -> None:
    rig.send("a")
    wait_for(lambda: rig.broker.in_hand.running)
    rig.broker.emit_before("worker_shutdown", rig.worker)
    assert (rig.get("/readyz").text, rig.get("/livez").ok) == ("it is stopping\n", True)


def test_a_worker_is_stuck_when_a_thread_hangs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a worker with two threads, all of them live
    rig.send("hangs")
    wait_for(lambda: rig.broker.in_hand.running)
    assert rig.get("/livez").ok
    # When one of them works longer than any message may take, then the worker is not live.
    monkeypatch.setattr(health, "WORK_WITHIN", -1.0)
    assert rig.get("/livez").status_code == 503
    assert "1 of 2 threads have been processing their message" in rig.get("/livez").text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_is_stuck_when_a_thread_of_its_consumer_has_ended(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(rig.consumer.leases, "_extend_due", dies)
    rig.send("a")
    rig.go_on.set()
    wait_for(lambda: not rig.consumer.receiver.loops[0].is_alive)
    assert rig.get("/livez").text == "keep-fetch: its thread has ended\n"


def test_an_idle_worker_is_live_and_one_whose_leases_are_not_extended_is_not(
    rig: Rig, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a limit of a second for each step, and a worker that has been idle for longer: its keeper has nothing to do
    monkeypatch.setattr(health, "STEP_WITHIN", 1.5)
    idle_since = time.monotonic()
    rig.send("a")
    wait_for(lambda: len(rig.consumer.leases) == 1)
    rig.go_on.set()
    wait_for(lambda: rig.consumer.leases.is_idle)
    wait_for(lambda: time.monotonic() - idle_since > 3)
    assert not list(rig.health.not_live())
    # When it has a lease to extend, and its keeper hangs
    rig.go_on.clear()
    hung = threading.Event()
    monkeypatch.setattr(rig.consumer.leases, "_extend_due", lambda: hung.wait(60))
    rig.send("b")
    # Then it is not live,
    wait_for(lambda: list(rig.health.not_live()), timeout=60)
    assert re.fullmatch(r"keep-fetch: its thread has not done what was due \d s ago\n", rig.get("/livez").text)
    # until the keeper goes on.
    hung.set()
    wait_for(lambda: not list(rig.health.not_live()))


def test_a_worker_is_stuck_when_one_of_its_threads_has_ended(rig: Rig) -> None:
    rig.worker.workers[0].stop()
    wait_for(lambda: not rig.worker.workers[0].is_alive())
    assert rig.get("/livez").text == "1 of 3 threads of the worker have ended\n"


def test_ingest_is_ready_from_the_first_answer_until_sqs_is_down(
    line: Line, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given ingest, and an input queue that is not reachable yet
    import pipeline.actors  # noqa: F401 - builds the broker that ingest sends with

    url = aws.sqs().create_queue(QueueName=f"{environment['QUEUE_NAMESPACE']}_input")["QueueUrl"]
    line.go_down()
    taking = Ingest(url, poll=LONG_POLL)
    taking.start()
    watched = IngestHealth(taking)
    assert list(watched.not_ready()) == ["the input queue: no answer from SQS for more than 60 s"]
    # When the queue is reachable, then ingest is ready,
    line.come_up()
    wait_for(lambda: not list(watched.not_ready()))
    # until SQS is down for too long, or ingest is stopping.
    monkeypatch.setattr(health, "ANSWER_WITHIN", 1.5)
    with line.down():
        wait_for(lambda: list(watched.not_ready()))
        assert not list(watched.not_live())
    taking.stop()
    assert list(watched.not_ready()) == ["it is stopping"]
    taking.join()
    assert not list(watched.not_live())


def test_ingest_is_stuck_when_its_threads_have_ended_and_healthy_without_an_input_queue(
    environment: dict[str, str],
) -> None:
    import pipeline.actors  # noqa: F401 - builds the broker that ingest sends with

    assert len(list(IngestHealth(Ingest("https://example.org/1/q")).not_live())) == 3
    nothing = IngestHealth(None)
    assert not [*nothing.not_live(), *nothing.not_ready()]


def test_the_scheduler_is_live_as_long_as_its_loop_runs() -> None:
    now = [datetime(2026, 11, 24, 0, 30, tzinfo=UTC)]
    periodic = Periodic("0 1 * * *", clock=lambda: now[0])
    watched = SchedulerHealth({"sweep_channels": periodic}, clock=lambda: now[0])
    assert not list(watched.not_live()), "before its first check"
    periodic.validate(now[0])
    looks_at = periodic.next_valid_date(now[0])
    now[0] = looks_at + timedelta(minutes=4)
    assert not list(watched.not_live())
    now[0] = looks_at + timedelta(minutes=6)
    (reason,) = watched.not_live()
    assert "2026-11-2" in reason


def test_the_scheduler_is_not_ready_while_it_cannot_send_a_due_run() -> None:
    now = [datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)]
    periodic = Periodic("* * * * *", clock=lambda: now[0])
    watched = SchedulerHealth({"sweep_channels": periodic}, clock=lambda: now[0])
    assert periodic.validate(now[0])
    periodic.not_sent()
    now[0] += timedelta(seconds=90)
    assert list(watched.not_ready()) == ["sweep_channels: due for 120 s and not sent"]
    instrumentation._refresh_schedule({"sweep_channels": periodic})
    assert REGISTRY.get_sample_value(f"{PREFIX}_schedule_overdue_seconds", {"sweep": "sweep_channels"}) == 120
    periodic.sent()
    assert not list(watched.not_ready())
    instrumentation._refresh_schedule({"sweep_channels": periodic})
    sent = REGISTRY.get_sample_value(f"{PREFIX}_schedule_sent_timestamp_seconds", {"sweep": "sweep_channels"})
    assert sent == datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()


def test_each_request_to_aws_is_counted(environment: dict[str, str], line: Line) -> None:
    def count(service: str, operation: str, result: str) -> float:
        labels = {"service": service, "operation": operation, "result": result}
        return REGISTRY.get_sample_value(f"{PREFIX}_aws_requests_total", labels) or 0

    bucket = environment["S3_BUCKET"]
    cases: list[tuple[str, str, str, Callable[[], Any]]] = [
        ("s3", "PutObject", "ok", lambda: objects.put(bucket, "a", b"x", doing="try")),
        ("s3", "HeadObject", "ok", lambda: objects.head(bucket, "a", doing="try")),
        ("s3", "HeadObject", "missing", lambda: objects.head(bucket, "b", doing="try")),
        ("s3", "GetObject", "missing", lambda: objects.get(bucket, "b", doing="try")),
        ("s3", "PutObject", "refused", lambda: objects.put(f"{bucket}-none", "a", b"x", doing="try")),
        ("s3", "DeleteObject", "ok", lambda: objects.delete(bucket, ["a"], doing="try")),
        ("s3", "ListObjectsV2", "ok", lambda: aws.s3().list_objects_v2(Bucket=bucket)),
        ("sqs", "GetQueueUrl", "missing", lambda: aws.sqs().get_queue_url(QueueName="none")),
        ("sqs", "ListQueues", "ok", lambda: aws.sqs().list_queues()),
    ]
    for service, operation, result, request in cases:
        before = count(service, operation, result)
        try:
            request()
        except (ClientError, objects.S3Error):
            assert result != "ok"
        assert count(service, operation, result) == before + 1
    with line.down():
        before = count("sqs", "ListQueues", "no_answer")
        with pytest.raises(BotoCoreError):
            aws.sqs().list_queues()
        assert count("sqs", "ListQueues", "no_answer") == before + 1
