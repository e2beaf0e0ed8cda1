"""A run processes each stale document once, even if pages repeat, runs overlap or workers die."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from threading import Thread

import pytest

from pipeline.clients import lazy
from pipeline.job import Job
from pipeline.settings import get_settings
from pipeline.stages import Lane
from pipeline.sweeps import documents, run_state, sweep
from pipeline.sweeps.documents import CHANNELS, EPISODES
from tests.support.mongo_commands import recorded
from tests.support.walker import Walker, end, episodes


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(sweep, "PAGE_SIZE", 4)


def test_each_stale_document_becomes_a_job_in_the_bulk_lane(database, small_pages):
    database.channels.insert_one({"_id": 1, "title": "The Show", "image_url": "x", "last_image_url": "x"})
    episodes(database, 10)

    walker = Walker(EPISODES).go()

    assert Counter(job.sources[0].url for job in walker.jobs) == {f"http://h/{n}": 1 for n in range(10)}
    assert {(job.folder, job.lane, job.sources[0].fields) for job in walker.jobs} == {
        ("THE_SHOW", Lane.BULK, ("itunes_image",))
    }
    assert (walker.record.claimed, walker.record.walked) == (10, True)
    assert all(Job.decode(job.encode()) == job for job in walker.jobs)


def test_documents_with_the_same_cover_share_one_job(database, small_pages):
    episodes(database, 30, covers=3)

    walker = Walker(EPISODES).go()
    assert len(walker.jobs) == 3
    for job in walker.jobs:
        end(job)

    assert database.episodes.count_documents({"last_itunes_image": {"$exists": True}, "lock": {"$exists": False}}) == 30
    assert walker.record.counts == {"done": 30}
    assert run_state.under_way(walker.record) == 0


def test_a_repeated_page_with_fewer_documents_loses_none(database, monkeypatch):
    # Given a worker that dies before it hands over the claimed documents
    episodes(database, 6)
    walker = Walker(EPISODES)

    def die(_jobs):
        raise SystemExit

    monkeypatch.setattr(sweep, "PAGE_SIZE", 4)
    with pytest.raises(SystemExit):
        walker.take(0, hand_over=die)
    # When the next attempt has room for fewer documents
    monkeypatch.setattr(sweep, "PAGE_SIZE", 1)
    walker.go()
    # Then each document still has a job.
    assert {job.sources[0].url for job in walker.jobs} == {f"http://h/{n}" for n in range(6)}


def test_documents_that_were_never_handed_over_take_no_room(database, monkeypatch):
    # Given a worker that dies with a page that fills the backlog
    monkeypatch.setenv("SWEEP_MAX_BACKLOG", "4")
    get_settings.cache_clear()
    episodes(database, 6)
    walker = Walker(EPISODES)

    def die(_jobs):
        raise SystemExit

    with pytest.raises(SystemExit):
        walker.take(0, hand_over=die)
    # When the page is taken again, then it does not wait for its own documents.
    walker.go()
    assert {job.sources[0].url for job in walker.jobs} == {f"http://h/{n}" for n in range(6)}


def test_jobs_that_never_end_delay_a_run_only_until_their_claims_expire(database, monkeypatch):
    # Given a backlog full of jobs whose write-back failed for good
    monkeypatch.setenv("SWEEP_MAX_BACKLOG", "4")
    get_settings.cache_clear()
    episodes(database, 8)
    walker = Walker(EPISODES)
    walker.take(0)
    assert walker.take(1) == sweep.NextPage(1, sweep.PAUSE)
    # When the claims of their documents have expired
    passed = timedelta(seconds=get_settings().claim_seconds)
    for group in list(database[run_state.COLLECTION].find({"pending": True})):
        database[run_state.COLLECTION].update_one(
            {"_id": group["_id"]}, {"$set": {"expires": group["expires"] - passed}}
        )
    # Then the run continues.
    assert walker.take(1) == sweep.NextPage(2)
    assert len(walker.jobs) == 8


def test_a_document_group_that_is_full_gets_another_job(database, small_pages, monkeypatch):
    # Given a document group that is full
    monkeypatch.setattr(run_state, "MAX_DOCUMENTS", 8)
    episodes(database, 16, covers=1)
    walker = Walker(EPISODES)
    for page in range(4):
        walker.take(page)
    # Then each later page has its own job for the cover,
    assert len({job.id for job in walker.jobs}) == len(walker.jobs) == 3
    assert {job.sources[0].url for job in walker.jobs} == {"http://h/0"}
    # and all documents are written.
    for job in walker.jobs:
        end(job)
    assert walker.record.counts == {"done": 16}
    assert database.episodes.count_documents({"last_itunes_image": "http://h/0", "lock": {"$exists": False}}) == 16
    assert run_state.under_way(walker.record) == 0


def test_workers_that_join_a_document_group_at_once_all_add_their_documents(database):
    groups = [run_state.DocumentGroup("cover", "run", "job", {"itunes_image": "u"}, [n]) for n in range(8)]
    threads = [Thread(target=run_state.join, args=([each], 0)) for each in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(database[run_state.COLLECTION].find_one({"_id": "cover"})["documents"]) == list(range(8))


def test_the_same_cover_in_two_folders_has_two_jobs(database):
    database.channels.insert_many([{"_id": n, "title": f"Show {n}"} for n in (1, 2)])
    database.episodes.insert_many([{"_id": n, "itunes_image": "http://h/1", "channel_id": n} for n in (1, 2)])

    assert {job.folder for job in Walker(EPISODES).go().jobs} == {"SHOW_1", "SHOW_2"}


def test_a_job_that_has_ended_is_not_sent_again_with_its_page(database, small_pages, monkeypatch):
    # Given a worker that died after it handed a page's jobs over, and before it advanced the run
    episodes(database, 4, covers=2)
    walker = Walker(EPISODES)

    def dies(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_state, "advance", dies)
        with pytest.raises(KeyboardInterrupt):
            walker.take(0)
    # When one of the jobs ends, and the page is taken again
    first, second = walker.jobs
    end(first)
    walker.jobs.clear()
    database.episodes.update_many({}, {"$unset": {"last_itunes_image": ""}})
    walker.take(0)
    # Then only the job that has not ended is sent again.
    assert walker.jobs == [second]


def test_documents_found_after_their_covers_job_ended_are_written_without_another_job(database, small_pages):
    episodes(database, 8, covers=1)
    walker = Walker(EPISODES)
    walker.take(0)
    end(walker.jobs[0], good=False)

    assert walker.take(1) == sweep.NextPage(2)

    assert len(walker.jobs) == 1
    assert database.episodes.count_documents({"metadata.image_is_valid": False, "lock": {"$exists": False}}) == 8
    assert walker.record.counts == {"invalid": 8}


def test_a_repeated_message_sends_the_next_page_if_its_worker_died_before_that(database, small_pages):
    episodes(database, 12)
    walker = Walker(EPISODES)
    walker.take(0, by="one")

    assert walker.take(0, by="one") == sweep.NextPage(1)
    assert len(walker.jobs) == 4


def test_a_page_is_handed_over_again_if_its_worker_died_before_advancing_the_run(database, small_pages):
    episodes(database, 8, covers=4)
    walker = Walker(EPISODES)

    def dies(_jobs):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        walker.take(0, hand_over=dies)
    assert walker.take(0) == sweep.NextPage(1)
    walker.go()

    # A job may be sent twice for the repeated page, with the same id. No document is lost or written twice.
    assert len({job.id for job in walker.jobs}) == 4
    for job in walker.jobs:
        end(job)
    assert walker.record.counts == {"done": 8}
    assert run_state.under_way(walker.record) == 0


def test_a_page_with_a_job_that_failed_sends_only_that_job_again(database, small_pages):
    # Given an SQS that refuses one of the four jobs of a page
    episodes(database, 4)
    walker = Walker(EPISODES)

    def refuses_the_second(jobs):
        walker.jobs.extend(job for place, job in enumerate(jobs) if place != 1)
        return [ConnectionError("refused") if place == 1 else None for place in range(len(jobs))]

    with pytest.raises(ConnectionError):
        walker.take(0, hand_over=refuses_the_second)
    assert run_state.under_way(walker.record) == 3
    # When the page is taken again, then each job was sent once,
    walker.go()
    assert len(walker.jobs) == 4
    assert {job.sources[0].url for job in walker.jobs} == {f"http://h/{n}" for n in range(4)}
    # and all are under way until they end.
    assert run_state.under_way(walker.record) == 4
    for job in walker.jobs:
        end(job)
    assert run_state.under_way(walker.record) == 0


def test_jobs_of_an_attempt_that_died_beside_another_are_sent(database, small_pages, monkeypatch):
    # Given two attempts at a page, of which one begins after the other and dies before it hands over
    episodes(database, 4)
    walker, join = Walker(EPISODES), run_state.join

    def die(_jobs):
        raise SystemExit

    def overtaken(groups, page):
        with monkeypatch.context() as patch:
            patch.setattr(run_state, "join", join)
            with pytest.raises(SystemExit):
                walker.take(0, by="another message", hand_over=die)
        return join(groups, page)

    # When the other goes on, then it sends the jobs of both.
    with monkeypatch.context() as patch:
        patch.setattr(run_state, "join", overtaken)
        walker.take(0)
    assert {job.sources[0].url for job in walker.jobs} == {f"http://h/{n}" for n in range(4)}
    assert run_state.under_way(walker.record) == 4


def test_a_document_that_joins_while_its_group_is_written_is_written_too(database, small_pages, monkeypatch):
    # Given a job whose documents are on two pages
    episodes(database, 8, covers=1)
    walker, write = Walker(EPISODES), documents.write
    walker.take(0)

    def overtaken(*args):
        with monkeypatch.context() as patch:
            patch.setattr(documents, "write", write)
            walker.take(1)
        return write(*args)

    # When the second page is taken while the documents of the first are being written
    monkeypatch.setattr(documents, "write", overtaken)
    end(walker.jobs[0])
    # Then all of them are written, once.
    assert len(walker.jobs) == 1
    assert walker.record.counts == {"done": 8}
    assert run_state.under_way(walker.record) == 0


def test_a_swept_document_costs_four_writes(database, monkeypatch):
    episodes(database, 30)
    walker = Walker(EPISODES)
    commands = recorded(monkeypatch)
    # When thirty documents are swept and written back
    walker.go()
    for job in walker.jobs:
        end(job)
    # Then each was claimed and written, and its group was recorded and settled.
    writes: Counter[str] = Counter()
    for command in commands.sent:
        for kind in ("updates", "documents", "deletes"):
            writes[command[next(iter(command))]] += len(command.get(kind, []))
    assert walker.record.counts == {"done": 30}
    assert writes["episodes"] == 2 * 30
    of_the_run = 30 + 2  # it counts each document, and each attempt at a page begins and ends
    assert writes["image_pipeline_sweeps"] == 2 * 30 + of_the_run


def test_workers_that_take_the_same_page_at_once_do_not_lose_or_fork_it(database, small_pages):
    episodes(database, 12)
    walker = Walker(EPISODES)
    answers: list[sweep.NextPage | None] = []
    threads = [Thread(target=lambda n=n: answers.append(walker.take(0, by=f"message {n}"))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(answers) == {sweep.NextPage(1): 1, None: 3}
    assert len({job.id for job in walker.jobs}) == 4


def test_concurrent_runs_process_no_document_twice(database, small_pages):
    episodes(database, 40)
    walkers = [Walker(EPISODES, run) for run in ("one", "two")]
    threads = [Thread(target=walker.go) for walker in walkers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    urls = [job.sources[0].url for walker in walkers for job in walker.jobs]
    assert sorted(urls) == sorted(f"http://h/{n}" for n in range(40))


def test_a_run_waits_while_too_many_of_its_jobs_are_under_way(database, monkeypatch):
    monkeypatch.setenv("SWEEP_MAX_BACKLOG", "8")
    lazy.forget()
    episodes(database, 30)
    walker = Walker(EPISODES)

    assert walker.take(0) == sweep.NextPage(1)
    assert len(walker.jobs) == 8
    assert walker.take(1) == sweep.NextPage(1, sweep.PAUSE)
    for job in walker.jobs[:3]:
        end(job)
    assert walker.take(1) == sweep.NextPage(2)
    assert len(walker.jobs) == 11
    assert run_state.under_way(walker.record) == 8


def test_a_limit_ends_the_sweep(database, small_pages):
    episodes(database, 20)

    walker = Walker(EPISODES, limit=6).go()

    assert len(walker.jobs) == 6
    assert database.episodes.count_documents({"lock": {"$exists": True}}) == 6
    assert walker.record.walked


def test_an_empty_collection_ends_the_sweep(database):
    walker = Walker(CHANNELS).go()

    assert walker.jobs == []
    assert walker.record.walked


def test_a_message_delivered_twice_sends_the_next_page_whichever_copy_advances_the_run(database, small_pages):
    # Given a message whose second copy still processes a page when the first copy advances the run and dies
    episodes(database, 10)
    walker = Walker(EPISODES)

    def overtaken(jobs):
        assert walker.take(0, by="one message") == sweep.NextPage(1)
        return walker.accept(jobs)

    # When the second copy ends, then it sends the next message, because its delete removes the first copy too
    assert walker.take(0, by="one message", hand_over=overtaken) == sweep.NextPage(1)
    # And another message for the same page does not.
    assert walker.take(0, by="another message") is None
