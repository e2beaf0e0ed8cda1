"""Heartbeats of real processes in the job log's database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.clients import aws, lazy, mongo
from pipeline.monitoring import processes as heartbeats
from pipeline.monitoring.processes import PROCESSES, Heartbeat, InProgress, Work, processes
from pipeline.ops.checks.run import findings
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from tests.support.waiting import wait_for


@pytest.fixture
def job_log(job_log, monkeypatch):
    """Provide queues and a job log in this test's database, and let processes beat quickly."""
    monkeypatch.setattr(heartbeats, "INTERVAL", 0.05)
    for change in plan(get_settings()):
        change.apply()
    return job_log


def send(queue, count=1):
    url = aws.sqs().get_queue_url(QueueName=get_settings().full_queue_name(queue))["QueueUrl"]
    for _ in range(count):
        aws.sqs().send_message(QueueUrl=url, MessageBody="{}")


def test_a_process_writes_what_it_works_on_until_it_ends(job_log):
    # given a process with a message in hand
    now = datetime.now(UTC).replace(microsecond=0)
    work = Work({"fetch": now}, (InProgress("fetch", "a-job", now),), ("no answer from SQS",))
    heartbeat = Heartbeat("fetch", ["fetch"], 16, lambda: work)
    heartbeat.start()
    # then its heartbeats are seen, each later than the one before
    (found,) = wait_for(processes)
    assert (found.type, found.stages, found.threads, found.work) == ("fetch", ("fetch",), 16, work)
    assert found.is_alive(datetime.now(UTC))
    assert not found.is_alive(found.seen + timedelta(minutes=1))
    wait_for(lambda: processes()[0].seen > found.seen)
    # and its end is recorded
    heartbeat.stop(10)
    (found,) = processes()
    assert found.ended
    assert not found.is_alive(datetime.now(UTC))


def test_restarts_in_the_last_hour_are_counted_by_type_and_host(job_log):
    # given fetch on two hosts: on one, two processes ended and were replaced, one of them two hours ago
    now = datetime.now(UTC)
    records = [
        ("a", timedelta(hours=3), timedelta(hours=2), True),
        ("a", timedelta(hours=2), timedelta(minutes=50), False),
        ("a", timedelta(minutes=50), timedelta(0), False),
        ("b", timedelta(minutes=5), timedelta(0), False),
    ]
    for number, (host, started, seen, ended) in enumerate(records):
        facts = {"type": "fetch", "host": host, "pid": number, "version": "1", "stages": ["fetch"], "threads": 1}
        times = {"started": now - started, "seen": now - seen, "ended": ended}
        mongo.job_database()[PROCESSES].insert_one({"_id": str(number), **facts, **times})
    # then the running process of that host has one restart, and the first process of the other host none
    assert {each.host: each.restarts for each in processes(now) if each.is_alive(now)} == {"a": 1, "b": 0}


class Health:
    """A process that is alive and takes no work."""

    def not_live(self):
        return []

    def not_ready(self):
        return ["it is stopping"]


def test_a_stage_without_a_process_is_named_by_status_and_check(job_log):
    # given 13 waiting messages, and a process that stopped 40 s ago
    send("fetch", 13)
    ended = datetime.now(UTC) - timedelta(seconds=40)
    heartbeat = Heartbeat("fetch", ["fetch"], 16, Work)
    heartbeat.start()
    heartbeat.stop(10)
    mongo.job_database()[PROCESSES].update_one({}, {"$set": {"seen": ended}})
    # when the status is shown and the check runs
    output = CliRunner().invoke(app, ["status"], env={"COLUMNS": "200"}).output
    rows = {each.row.subject: each.row for each in findings() if each.group == "Work"}
    # then both name it
    assert "fetch: 13 wait, none taken for 4" in " ".join(output.split())
    assert rows["fetch"].status == "warn"
    assert rows["fetch"].message.startswith("13 wait, none taken for 4")
    assert "start a process for fetch" in rows["fetch"].hint.lower()


def test_without_mongodb_a_heartbeat_is_missed_and_logged_once(environment, monkeypatch, caplog):
    monkeypatch.setenv("JOBS_MONGO_URL", "mongodb://u:hush@127.0.0.1:1/none")
    monkeypatch.setattr(heartbeats, "TIMEOUT", 0.05)
    lazy.forget()
    heartbeat = Heartbeat("fetch", ["fetch"], 1, Work)
    heartbeat._beat()
    heartbeat._beat()
    assert caplog.text.count("MongoDB does not answer. Live jobs go on without it.") == 1
    assert "hush" not in caplog.text
