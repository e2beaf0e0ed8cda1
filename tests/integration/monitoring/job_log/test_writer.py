"""The thread that writes the job log in batches, survives outages, and blocks no worker."""

from __future__ import annotations

import logging
import re
import threading
import time
from urllib.parse import urlsplit

import pytest
from pymongo.errors import AutoReconnect

from pipeline.clients import lazy, mongo
from pipeline.events import Event, Outcome
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.monitoring.job_log import writer as job_log_writer
from pipeline.monitoring.job_log.schema import JOBS, MINUTES
from pipeline.monitoring.job_log.writer import JobLogWriter, write_entries
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from tests.support.line import Line
from tests.support.waiting import wait_for


@pytest.fixture
def jobs(database, monkeypatch):
    """Provide the job log in this test's database."""
    monkeypatch.setenv("JOBS_MONGO_URL", get_settings().mongo_url.get_secret_value())
    lazy.forget()
    return database[JOBS]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(job_log_writer, "FIRST_BACKOFF", 0.05)
    monkeypatch.setattr(job_log_writer, "LAST_BACKOFF", 0.05)


def event(number=0, job_id=None, **more):
    return Event("fetch", job_id or f"job-{number}", Outcome.DONE, at=time.time() + number / 1000, **more)


def test_attempts_are_written_in_batches_and_the_rest_at_the_end(jobs):
    # given a log that collects for a minute
    batches = []
    log = JobLogWriter(lambda entries: (batches.append(len(entries)), write_entries(entries)), batch_window=60)
    log.start()
    # when it gets 1,200 attempts of 300 jobs, and is stopped
    for number in range(1200):
        log(event(number, f"job-{number % 300}"))
    log.stop(20)
    # then two requests wrote them, and two more counted them
    assert batches == [1000, 200]
    assert jobs.count_documents({}) == 300
    assert all(len(each["turns"]) == 4 for each in jobs.find())
    minutes = mongo.job_database()[MINUTES].find()
    assert sum(each["turns"]["fetch"]["done"] for each in minutes) == 1200


def test_an_outage_of_mongodb_is_logged_once_and_survived(jobs, quick, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    with Line(urlsplit(get_settings().mongo_url.get_secret_value()).port) as line:
        # given a log whose line to MongoDB is down
        url = re.sub(r":\d+/", f":{line.port}/", get_settings().mongo_url.get_secret_value())
        monkeypatch.setenv("JOBS_MONGO_URL", url)
        monkeypatch.setattr(job_log_writer, "TIMEOUT", 0.2)
        lazy.forget()
        line.go_down()
        log = JobLogWriter(batch_window=0.01)
        log.start()
        # when attempts are emitted during the outage and after it
        for number in range(10):
            log(event(number))
        wait_for(lambda: "The job log is delayed" in caplog.text)
        for number in range(10, 20):
            log(event(number))
        line.come_up()
        # then all of them are written
        wait_for(lambda: jobs.count_documents({}) == 20)
        wait_for(lambda: "The job log is being written again" in caplog.text)
        log.stop(5)
        lazy.forget()  # a client that is closed while its line is down looks for the server for 5 s
    assert caplog.text.count("The job log is delayed") == 1
    assert log.lost == 0


def test_a_full_buffer_drops_the_oldest_attempts(quick):
    written = []
    up = threading.Event()

    def write(entries):
        if not up.is_set():
            raise AutoReconnect("mongodb://user:hush@host")
        written.extend(entry.job_id for entry in entries)

    log = JobLogWriter(write, capacity=5, batch_window=0.01)
    log.start()
    for number in range(12):
        log(event(number))
    up.set()
    wait_for(lambda: len(written) == 5)
    log.stop(5)
    assert written == [f"job-{number}" for number in range(7, 12)]
    assert log.lost == 7


def test_stopping_does_not_wait_for_a_mongodb_that_does_not_answer(caplog):
    never = threading.Event()
    log = JobLogWriter(lambda entries: never.wait(60), batch_window=0.01)
    log.start()
    log(event())
    before = time.monotonic()
    log.stop(0.1)
    assert time.monotonic() - before < 30
    assert "lost its latest attempts" in caplog.text
    never.set()


@pytest.mark.parametrize(
    "bad", [{"job_id": 2**70}, {"job_id": "\ud800"}, {"code": "\ud800"}, {"attempt": 2**70}], ids=str
)
def test_an_attempt_that_cannot_be_written_is_dropped_alone(jobs, caplog, bad):
    # given a batch with an attempt that BSON cannot represent
    log = JobLogWriter(batch_window=0.01)
    for number in range(3):
        log(event(number))
        if number == 1:
            log(event(**bad))
    # when it is written, then only that attempt is missing
    log.start()
    wait_for(lambda: all(job_log_reader.history(f"job-{number}") for number in range(3)))
    assert "dropped 1 of 4 attempts" in caplog.text
    log.stop(5)


def test_many_processes_may_begin_the_same_history(jobs):
    # given eight writers, each with its own client
    from pymongo import MongoClient

    from pipeline.monitoring.job_log.schema import entry_of, updates

    url = get_settings().jobs_mongo_url.get_secret_value()
    together = threading.Barrier(8)

    def write(number):
        with MongoClient(url) as client:
            together.wait()
            changes = updates([entry_of(event(number, f"job-{n}")) for n in range(50)])
            job_log_writer._bulk(client.get_default_database()[JOBS], changes)

    threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # then each of the fifty has all eight attempts
    assert jobs.count_documents({}) == 50
    assert all(len(each["turns"]) == 8 for each in jobs.find())


def test_provision_announces_the_indexes_and_creates_them_once(jobs):
    def steps():
        return [change for change in plan(get_settings()) if "job log" in change.message]

    assert [re.findall(r"index (\w+) .* by ([\w,]+)", change.message)[0] for change in steps()] == [
        ("image_pipeline_jobs", "updated"),
        ("image_pipeline_jobs", "lane,began"),
        ("image_pipeline_jobs", "failed"),
        ("image_pipeline_jobs", "began"),
        ("image_pipeline_results", "expires"),
        ("image_pipeline_processes", "seen"),
        ("image_pipeline_minutes", "at"),
    ]
    for change in steps():
        change.apply()

    assert steps() == []
    indexes = jobs.index_information()
    assert indexes["updated_1"]["expireAfterSeconds"] == 30 * 86400
    assert indexes["began_1"]["partialFilterExpression"] == {"open": True}
