"""Lists of jobs in the job log: their filters, their order, and what they read."""

from __future__ import annotations

import time

import pytest
from bson import encode

from pipeline.clients import mongo
from pipeline.events import Event, Outcome
from pipeline.job import Sweep
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.monitoring.job_log.schema import JOBS
from pipeline.monitoring.job_log.search import JobFilter, search
from pipeline.stages import FETCH, NOTIFY, UPLOAD, Lane
from tests.integration.monitoring.test_job_log_reader import (
    COVER,
    OTHER,
    attempt,
    failed_history,
    good_history,
    job,
    jobs,
    later,
    write,
)

__all__ = ["jobs"]

SWEEP = Sweep("channels", "channels-2026-01-01T01:00Z", "a cover")


def ids(*args, **more):
    return [history.id for history in search(JobFilter(*args, **more)).jobs]


def test_jobs_are_filtered_by_outcome_stage_and_code(jobs):
    for number in range(4):
        write(*failed_history(job(COVER, job_id=f"failed-{number}"), UPLOAD if number else FETCH))
    write(*good_history(job(COVER, job_id="good")))
    assert len(ids()) == 5
    assert ids(outcome="well") == ["good"]
    assert set(ids(outcome="failed", stage="upload")) == {"failed-1", "failed-2", "failed-3"}
    assert ids(stage="fetch") == ["failed-0"]
    assert ids(code="timeout") == ["good"]
    assert len(ids(code="http_404")) == 4
    assert ids(code="no_such_code") == []


def test_a_job_is_found_by_its_id_host_path_and_folder(jobs):
    write(*good_history(job("https://a.example.org:8443/x/cover.png", job_id="6fa459ea-1")))
    write(*good_history(job("https://b.example.net/y.png", OTHER, job_id="7fa459ea-2")))
    assert ids(text="6FA459ea") == ["6fa459ea-1"]
    assert ids(text="fa459ea") == []
    assert ids(text="A.example.org:8443") == ["6fa459ea-1"]
    assert ids(text="/OTHER.png") == ["7fa459ea-2"]
    assert ids(text=".*") == []
    assert len(ids(text="the_show")) == 2


def test_snoozed_jobs_of_a_sweep_neither_hide_live_jobs_nor_change_the_order(jobs):
    # given live jobs, and jobs of a sweep that began later
    for number in range(3):
        write(*later(good_history(job(COVER, job_id=f"live-{number}")), number))
    swept = [job(COVER, job_id=f"sweep-{number}", lane=Lane.BULK, sweep=SWEEP) for number in range(3)]
    for number, each in enumerate(swept):
        write(attempt(FETCH, Outcome.SNOOZED, 20 + number, each, code="host_busy", message="Busy.", wait=1.0))
    before = ids()
    # when they are snoozed again, in another order
    for each in reversed(swept):
        write(attempt(FETCH, Outcome.SNOOZED, 30, each, code="host_busy", message="Busy.", wait=1.0))
    # then the order is the same, and each lane has its list
    assert ids() == before == ["sweep-2", "sweep-1", "sweep-0", "live-2", "live-1", "live-0"]
    assert ids(Lane.LIVE) == ["live-2", "live-1", "live-0"]
    assert ids(Lane.BULK) == ["sweep-2", "sweep-1", "sweep-0"]


def test_a_list_continues_on_the_next_page_without_losing_jobs_that_began_together(jobs):
    for number in range(7):
        write(*later(good_history(job(COVER, job_id=f"job-{number}")), number // 3))
    found, after, pages = [], "", 0
    while not pages or after:
        page = search(limit=2, after=after)
        found += [history.id for history in page.jobs]
        after, pages = page.following, pages + 1
    assert sorted(found) == [f"job-{number}" for number in range(7)]
    assert found[0] == "job-6"
    assert pages == 2
    with pytest.raises(ValueError, match="place"):
        search(after="$where")


def test_a_list_reads_no_old_attempts_and_knows_the_same_as_a_history(jobs):
    # given jobs with every kind of history, one with many attempts
    message = "x" * 400
    many = job(COVER, job_id="many")
    for number in range(40):
        write(attempt(FETCH, Outcome.RETRY, number / 10, many, attempt=number, code="timeout", message=message, wait=1))
    write(*later(good_history(many), 10))
    write(*good_history(job(COVER, job_id="good"))[:3])
    write(*failed_history(job(COVER, job_id="bad")))
    start = job(COVER, job_id="half")
    for outcome, second, name in (
        (Outcome.RETRY, 1, "postback_url"),
        (Outcome.DONE, 2, ""),
        (Outcome.GIVEN_UP, 3, "redirect_queue"),
    ):
        write(attempt(NOTIFY, outcome, second, start, code="x", worked_on=(name,) if name else ()))
    write(Event("ingest", "refused", Outcome.REJECTED, at=time.time() - 60, code="not_json", message="No JSON."))
    # when they are listed
    found = {history.id: history for history in search().jobs}
    # then each has the status and the stage of its history,
    assert len(found) == 5
    for id_, history in found.items():
        whole = job_log_reader.history(id_)
        assert (history.status, history.stage) == (whole.status, whole.stage), id_
    # and the list has read fewer than 2 kB of the job with many attempts
    query = mongo.job_database()[JOBS].find({"_id": "many"}, {"turns": 0})
    assert len(encode(next(query))) < 2000
    assert len(found["many"].turns) <= 6


def test_jobs_that_an_earlier_version_wrote_are_listed(jobs):
    write(*good_history(job(COVER, job_id="good")))
    mongo.job_database()[JOBS].update_one({}, {"$unset": {"latest": ""}})
    assert [history.status for history in search().jobs] == ["done"]
