"""Lists of jobs in the job log: their filters, their order, and what they read."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from bson import encode

from pipeline.clients import mongo
from pipeline.errors import RetryableError
from pipeline.events import Event, Outcome
from pipeline.job import Sweep
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.monitoring.job_log import search as job_log_search
from pipeline.monitoring.job_log.schema import JOBS
from pipeline.monitoring.job_log.search import JobFilter, search
from pipeline.stages import FETCH, NOTIFY, STAGES, UPLOAD, Lane
from tests.integration.monitoring.job_log.test_reader import (
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
from tests.support.mongo_commands import Commands, recorded
from tests.support.shown import log_copies

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
    assert ids(stage="fetch") == ids(stage="fetch", text="example.org") == ["failed-0"]
    assert ids(stage="fetch", text="nowhere") == []
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
    with pytest.raises(ValueError, match="position"):
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
    assert len(found["many"].attempts) <= 6


def test_the_list_of_a_stage_has_every_job_whose_history_is_in_that_stage(jobs):
    # given jobs that wait, failed or were dropped in each stage, with a result and without, and one tried again
    for stage in STAGES:
        name = stage.name
        write(*failed_history(job(COVER, job_id=f"failed-{name}"), stage))
        write(attempt(stage, Outcome.RETRY, 1, job(COVER, job_id=f"waits-{name}"), code="x", message="X.", wait=9.0))
        silent = job(COVER, job_id=f"silent-{name}", deliveries=())
        write(attempt(stage, Outcome.DROPPED, 1, silent, code="dropped", message="Dropped."))
        again = job(COVER, job_id=f"again-{name}")
        write(*failed_history(again, stage))
        write(attempt(stage, Outcome.RETRY, 9, replace(again, redrives=1), code="x", message="X.", wait=9.0))
    write(*good_history(job(COVER, job_id="good")))
    write(Event("ingest", "refused", Outcome.REJECTED, at=time.time() - 60, code="not_json", message="No JSON."))
    # when each stage is listed, then it has the jobs of that stage, as their histories name it
    histories = search().jobs
    assert len({history.stage for history in histories}) > len(STAGES)
    for name in {history.stage for history in histories}:
        assert set(ids(stage=name)) == {history.id for history in histories if history.stage == name}, name


def test_jobs_that_an_earlier_version_wrote_are_listed(jobs):
    write(*good_history(job(COVER, job_id="good")))
    mongo.job_database()[JOBS].update_one({}, {"$unset": {"latest": ""}})
    assert [history.status for history in search().jobs] == ["done"]


# The bounds of a search.

OLD = "6fa459ea-ee8a-4ca4-894e-db77e160355e"


@pytest.fixture
def crowd(jobs, monkeypatch):
    """Provide an old job with its own text, and 3,000 others that began or failed after it; returns the commands."""
    write(*failed_history(job("https://rare.example.org/old.png", job_id=OLD)))
    write(*failed_history(job(COVER, job_id="copy-0")))
    log_copies("copy-0", 2999)
    age = {name: timedelta(hours=-2) for name in ("began", "failed")}
    (old,) = jobs[JOBS].find({"_id": OLD})
    jobs[JOBS].update_one({"_id": OLD}, {"$set": {name: old[name] + less for name, less in age.items()}})
    return recorded(monkeypatch)


@pytest.fixture
def at_most_1000(monkeypatch):
    """Let a search examine at most 1,000 jobs, for as long as it takes."""
    monkeypatch.setattr(job_log_search, "MAX_EXAMINED", 1000)
    monkeypatch.setattr(job_log_search, "MAX_SECONDS", 60.0)


def examined(commands: Commands) -> int:
    """Return how many jobs the windows of the recorded commands contain: each is read once its end was found."""
    finds = [command.get("skip") for command in commands.sent if "find" in command]
    return sum(skip + 1 for skip, following in pairwise(finds) if skip is not None and following is None)


@pytest.mark.parametrize("outcome", ["", "failed"])
def test_a_search_for_rare_text_ends_at_its_bound_and_the_next_page_goes_on_from_there(crowd, at_most_1000, outcome):
    # when a text is searched that only the oldest of 3,001 jobs has, page by page
    pages, after = [], ""
    while not pages or after:
        crowd.clear()
        page = search(JobFilter(outcome=outcome, text="RARE.example"), after=after)
        # then each page examines at most 1,000 jobs, every window but the last has an end, and only its end comes back
        assert examined(crowd) <= 1000
        for command in crowd.sent[1:-2]:
            assert "skip" in command or command["filter"][page_order(outcome)]["$gte"].year > 2000, command
        assert crowd.received <= len(page.jobs) + 3
        pages.append(page)
        after = page.following
    # and the pages that were cut off report it, and the last one has the job
    assert [len(page.jobs) for page in pages] == [0, 0, 0, 1]
    assert [bool(page.cut_off) for page in pages] == [True, True, True, False]
    assert pages[-1].jobs[0].id == OLD
    verb = page_order(outcome)
    assert pages[0].cut_off.startswith(f"Not everything was searched: jobs that {verb} before 20")


def page_order(outcome):
    return "failed" if outcome else "began"


def test_a_search_that_takes_too_long_is_cut_off_after_its_first_window(crowd, monkeypatch):
    monkeypatch.setattr(job_log_search, "MAX_SECONDS", 0.0)
    monkeypatch.setattr(job_log_search, "MAX_EXAMINED", 3000)
    page = search(JobFilter(text="rare.example"))
    assert (page.jobs, bool(page.cut_off)) == ((), True)
    assert examined(crowd) == job_log_search.FIRST_WINDOW
    # and the next page begins where it ended
    crowd.clear()
    assert search(JobFilter(text="rare.example"), after=page.following).following != page.following
    assert examined(crowd) == job_log_search.FIRST_WINDOW


def test_mongodb_slower_than_the_bound_in_a_later_window_cuts_the_search_and_keeps_its_jobs(crowd, monkeypatch):
    # given a MongoDB that is slower than the bound once the second window has begun
    monkeypatch.setattr(job_log_search, "MAX_SECONDS", 0.3)
    monkeypatch.setattr(job_log_search, "MAX_EXAMINED", 3000)
    answered = crowd.succeeded

    def slow(event):
        answered(event)
        if crowd.sent[-1].get("skip", 0) >= job_log_search.FIRST_WINDOW:
            time.sleep(0.4)

    monkeypatch.setattr(crowd, "succeeded", slow)
    # when jobs are searched of which the first window has two
    mongo.job_database()[JOBS].update_many({"_id": {"$in": ["copy-3", "copy-4"]}}, {"$set": {"folder": "few"}})
    crowd.clear()
    page = search(JobFilter(text="few"))
    # then these are listed
    assert [history.id for history in page.jobs] == ["copy-3", "copy-4"]
    assert page.cut_off


def test_an_old_job_is_found_by_its_id_whatever_began_after_it(crowd, at_most_1000):
    for text in (OLD, OLD[:8].upper()):
        crowd.clear()
        page = search(JobFilter(text=text))
        assert ([history.id for history in page.jobs], page.following, page.cut_off) == ([OLD], "", "")
        assert examined(crowd) == 0
    # and the other conditions apply to it
    assert search(JobFilter(text=OLD, lane=Lane.BULK)).jobs == ()
    assert search(JobFilter(text=OLD, outcome="well")).jobs == ()
    assert search(JobFilter(text=OLD, code="no_such_code")).jobs == ()


def test_a_whole_id_is_looked_up_and_no_other_job_is_read(crowd):
    for text in (OLD, OLD.upper()):
        crowd.clear()
        assert [history.id for history in search(JobFilter(text=text)).jobs] == [OLD]
        # then each query names ids alone, and leaves the choice of the index to MongoDB
        assert set(crowd.names) == {"find"}
        assert all(set(command["filter"]["_id"]) == {"$in"} and "hint" not in command for command in crowd.sent)


def test_a_whole_id_of_no_job_is_looked_up_too(crowd):
    assert job_log_reader.matching(str(UUID(int=5))) == []
    assert [set(command["filter"]["_id"]) for command in finds(crowd)] == [{"$in"}]


@pytest.mark.parametrize("text", ["rare.example", str(UUID(int=5))])
def test_a_text_that_begins_no_id_is_not_compared_with_ids(crowd, text):
    search(JobFilter(text=text))
    query = finds(crowd)[-1]["filter"]
    assert [set(each) for each in query["$or"]] == [{"folder"}, {"sources.0.url"}, {"sources.1.url"}]


def test_a_first_window_without_an_answer_is_an_error(crowd, monkeypatch):
    monkeypatch.setattr(mongo, "SHORT_TIMEOUT", 0.000_001)
    with pytest.raises(RetryableError, match="MongoDB does not answer"):
        search(JobFilter(text="rare.example"))


def finds(commands: Commands):
    return [command for command in commands.sent if "find" in command]


def test_a_stage_is_found_by_one_query_among_few_jobs(crowd):
    # given one job that failed in another stage, before 3,001 others
    write(*failed_history(job(COVER, job_id="elsewhere"), UPLOAD))
    age = timedelta(hours=-3)
    (found,) = mongo.job_database()[JOBS].find({"_id": "elsewhere"})
    mongo.job_database()[JOBS].update_one({"_id": "elsewhere"}, {"$set": {"began": found["began"] + age}})
    mongo.job_database()[JOBS].update_many({"_id": {"$regex": "^copy"}}, {"$unset": {"failed": "", "open": ""}})
    crowd.clear()
    # when the jobs of its stage are listed
    page = search(JobFilter(stage="upload"))
    # then one query reads few others
    assert ([history.id for history in page.jobs], page.cut_off) == (["elsewhere"], "")
    assert crowd.names.count("find") == 1
    assert crowd.received == 2


def test_lists_use_an_index_alone_and_a_search_of_few_jobs_reads_them_once(crowd):
    # when lists are read that no text or code narrows
    failures = (JobFilter(outcome="failed"), JobFilter(outcome="failed", stage="resize"))
    for wanted in (JobFilter(), JobFilter(lane=Lane.LIVE), *failures, JobFilter(outcome="well")):
        crowd.clear()
        search(wanted)
        # then each query is an equality and a closed range of its time, which the embedded server reads from an index
        for command in (each for each in crowd.sent if "find" in each):
            filter_ = dict(command["filter"])
            assert set(filter_.pop(wanted.order)) == {"$gte", "$lt"}, command
            assert filter_ in ({"lane": "live"}, {"lane": "bulk"}, {}), command
    # and a search of fewer jobs than it may examine is one query, in one lane and in both
    for wanted in (JobFilter(text="rare.example"), JobFilter(lane=Lane.LIVE, text="rare.example")):
        crowd.clear()
        assert [history.id for history in search(wanted).jobs] == [OLD]
        assert crowd.names.count("find") == 1
    assert search(JobFilter(lane=Lane.BULK, text="rare.example")).jobs == ()
