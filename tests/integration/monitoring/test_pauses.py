"""A stage is paused and resumed: workers and `ingest` obey, and everyone is told."""

from __future__ import annotations

import re

import pytest
from dramatiq import Worker

from pipeline.actors import broker, fetch_image
from pipeline.clients import aws
from pipeline.monitoring import pauses
from pipeline.monitoring import processes as heartbeats
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from pipeline.worker import ingest
from pipeline.worker.heartbeats import Heartbeats, beating, work_of
from pipeline.worker.ingest import Ingest
from tests.integration.conftest import LONG_POLL, worker_of
from tests.support.command_line import image_pipeline
from tests.support.mongo_commands import recorded
from tests.support.waiting import wait_for


@pytest.fixture
def job_log(job_log, monkeypatch):
    """Provide queues and a job log in this test's database, and let processes beat quickly."""
    monkeypatch.setattr(heartbeats, "INTERVAL", 0.05)
    monkeypatch.setattr(ingest, "PAUSE", 0.05)
    for change in plan(get_settings()):
        change.apply()
    yield job_log
    broker.in_hand.pause([])


def visible(name):
    url = aws.sqs().get_queue_url(QueueName=get_settings().full_queue_name(name))["QueueUrl"]
    counts = aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return int(counts["ApproximateNumberOfMessages"])


class Health:
    def not_live(self):
        return []

    def not_ready(self):
        return []


def test_a_worker_takes_nothing_from_a_paused_queue_until_it_is_resumed(job_log, monkeypatch):
    # given a worker that long-polls briefly, whose stage is paused before it starts
    broker.in_hand.pause(["fetch"])
    fetch_image.send({"image_url": "http://127.0.0.1:9/x.png", "redirect_queue": "q"})
    with worker_of("fetch"):
        (consumer,) = wait_for(lambda: [each for each in broker.in_hand.consumers if each.queue.name == "fetch"])
        # then its consumer waits and the message stays
        assert consumer.receiver.unanswered_since is None
        assert visible("fetch") == 1
        assert len(consumer.leases) == 0
        # and when it is resumed, it takes the message
        broker.in_hand.pause([])
        wait_for(lambda: visible("fetch") == 0)


def test_processes_obey_what_commands_write(job_log):
    # given a process that beats
    paused = []
    with beating(get_settings(), "ingest", ["ingest"], Health(), pause=paused.append):
        wait_for(lambda: paused and not paused[-1])
        # when its stage is paused
        assert "ingest is pausing" in image_pipeline("pause", "ingest")
        # then it is told, and so is everyone who asks
        wait_for(lambda: paused[-1])
        assert list(pauses.paused()) == ["ingest"]
        wait_for(lambda: [each.work.paused for each in heartbeats.processes()] == [("ingest",)])
        image_pipeline("pause", "fetch")
        assert re.search(r"fetch: 0 wait: paused for \d+ s\.", image_pipeline("status"))
        # and it goes on when it is resumed
        assert "ingest goes on" in image_pipeline("resume", "ingest")
        wait_for(lambda: not paused[-1])
    assert "'up' is not one of ingest, fetch" in image_pipeline("pause", "up", status=2)


def test_a_worker_reads_the_pauses_once_per_heartbeat(job_log, monkeypatch):
    # given a worker of all queues, one of whose stages is paused
    pauses.pause("fetch")
    commands = recorded(monkeypatch)
    worker = Worker(broker, worker_threads=1)
    beats = Heartbeats(get_settings())
    beats.after_worker_boot(broker, worker)
    # when it has obeyed in several heartbeats
    wait_for(lambda: commands.names.count("update") > 3)
    beats.before_worker_shutdown(broker, worker)
    # then each has read the pauses once, and both queues of the stage are paused
    assert commands.names.count("find") <= commands.names.count("update")
    assert set(broker.in_hand.paused) == {"fetch", "fetch_bulk"}


def test_a_worker_confirms_a_pause_once_its_long_poll_has_ended(job_log, monkeypatch):
    # given a worker whose long poll is out
    with worker_of("fetch"):
        (consumer,) = wait_for(lambda: [each for each in broker.in_hand.consumers if each.queue.name == "fetch"])
        wait_for(lambda: consumer.receiver.unanswered_since is not None)
        # when its queues are paused, then it confirms when the poll has returned
        broker.in_hand.pause(["fetch", "fetch_bulk"])
        assert work_of(broker.in_hand, Health()).paused == ()
        wait_for(lambda: work_of(broker.in_hand, Health()).paused == ("fetch",), timeout=40)


def test_a_paused_ingest_receives_nothing(job_log):
    url = aws.sqs().create_queue(QueueName=f"{get_settings().queue_namespace}_input")["QueueUrl"]
    aws.sqs().send_message(QueueUrl=url, MessageBody="{}")
    worker = Ingest(url, poll=LONG_POLL)
    worker.pause(True)
    worker.start()
    wait_for(lambda: worker.unanswered_since is None)
    assert worker.taken_at is None
    worker.pause(False)
    wait_for(lambda: worker.taken_at)
    worker.stop()
    worker.join()
