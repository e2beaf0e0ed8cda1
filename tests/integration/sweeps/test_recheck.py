"""Re-checks on the embedded servers, from the walk over the documents to their new pictures."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.clients import lazy
from pipeline.events import RecheckOutcome
from pipeline.ops import rechecks
from pipeline.ops import sweeps as sweeping
from pipeline.sweeps import recheck, run_state, sources, sweep
from pipeline.sweeps.documents import CHANNELS, RECHECK
from pipeline.sweeps.sources import SourceCheck
from tests.support.cover_host import OLD
from tests.support.dead import counts
from tests.support.rechecked import EXTRA, by_id, ended, episodes, rechecked, swept


def test_unchanged_covers_cost_one_request_each_and_nothing_else(database, host, attempts):
    episodes(database, host.add(*range(60)), copies=2)
    before = swept(database)
    attempts.clear()
    host.asked.clear()

    assert rechecked() == {"not_modified": 60}

    assert host.times_asked() == {f"/{n}": 1 for n in range(60)}
    assert {each.status for each in host.asked} == {304}
    assert attempts == {"fetch": 60}
    assert by_id(database) == before


def test_a_host_without_validators_sends_all_bytes_and_nothing_is_rendered(database, host, attempts):
    host.headers = lambda *_: {}
    episodes(database, host.add(*range(20)))
    before = swept(database)
    attempts.clear()
    host.asked.clear()

    assert rechecked() == {"same_bytes": 20}

    assert set(host.statuses()) == {200}
    assert attempts == {"fetch": 20}
    assert by_id(database) == before


def test_changed_covers_reach_exactly_the_documents_that_hold_them(database, host, attempts):
    # Given sixty covers, one of them shared by 500 documents
    urls = host.add(*range(60))
    episodes(database, urls)
    episodes(database, urls[:1], copies=499)
    before = swept(database)
    attempts.clear()
    # When two are replaced under their URLs
    host.pictures |= {"/0": 1000, "/30": 1001}
    counted = rechecked()
    # Then their documents have new pictures, and no other document differs.
    assert counted == {"not_modified": 58, "changed": 2, "documents": 501}
    after = by_id(database)
    differ = {id_ for id_ in before if before[id_] != after[id_]}
    assert differ == {id_ for id_, each in before.items() if each["itunes_image"] in {urls[0], urls[30]}}
    for id_ in differ:
        changed = {name for name in after[id_] if after[id_][name] != before[id_].get(name)}
        assert changed == {"itunes_image_extra_images"}
    assert attempts == {"fetch": 60, "resize": 2, "upload": 2, "notify": 2}
    # And the run keeps what it replaced, and the next run finds nothing to do.
    run = run_state.latest(RECHECK, 1)[0].id
    kept = {each["urls"]["itunes_image"]: each for each in run_state.changed_covers(run, 9)}
    assert kept.keys() == {urls[0], urls[30]}
    assert kept[urls[0]]["replaced"] == 500
    assert kept[urls[0]]["before"] == next(each for each in before.values() if each["itunes_image"] == urls[0])[EXTRA]
    assert kept[urls[0]]["outcome"]["stored"]["itunes_image"] in [after[id_][EXTRA] for id_ in differ]
    assert rechecked() == {"not_modified": 60}


def test_documents_in_other_folders_and_collections_get_their_own_pictures(database, host):
    # Given one cover that two channels and their episodes share
    (url,) = host.add(1)
    for channel in (1, 2):
        database.channels.insert_one({"_id": channel, "title": f"Show {channel}", "image_url": url})
        episodes(database, [url], channel=channel)
    ended(sweeping.start(CHANNELS, limit=None))
    swept(database)
    host.asked.clear()
    # When it is replaced
    host.pictures["/1"] = 2
    assert rechecked()["documents"] == 4
    # Then each document has the new picture in its own folder, and each folder cost one more request.
    found = [*database.channels.find(), *database.episodes.find()]
    pictures = [(each.get("image_url_extra_images") or each.get(EXTRA))["4x4"] for each in found]
    assert sorted(each["bucket_path"] for each in pictures) == [f"images-resized/SHOW_{n}/" for n in (1, 1, 2, 2)]
    assert len({recheck.content_id_of({"4x4": each}) for each in pictures}) == 1
    assert host.statuses() == [200, 200]


def test_a_cover_that_an_ordinary_sweep_found_changed_reaches_its_other_documents(database, host):
    (url,) = host.add(1)
    episodes(database, [url])
    swept(database)
    host.pictures["/1"] = 2
    episodes(database, [url])
    swept(database)

    assert rechecked() == {"not_modified": 1, "left": 1, "renewed": 1, "documents": 1}

    assert len({str(each[EXTRA]) for each in database.episodes.find()}) == 1
    assert rechecked() == {"not_modified": 1}


def test_documents_of_which_nothing_is_known_are_compared_with_their_own_pictures(database, host, attempts):
    urls = host.add(1, 2)
    episodes(database, urls)
    before = swept(database)
    database[sources.COLLECTION].drop()
    host.pictures["/2"] = 3
    attempts.clear()

    assert rechecked() == {"same_bytes": 1, "changed": 1, "documents": 1}

    assert attempts == {"fetch": 2, "resize": 1, "upload": 1, "notify": 1}
    assert [each["itunes_image"] for id_, each in by_id(database).items() if each != before[id_]] == [urls[1]]


# Hosts that are not to be trusted.


def test_a_host_that_answers_304_forever_is_found_out_by_the_next_full_download(database, host):
    host.headers = lambda *_: {"ETag": '"always"'}
    episodes(database, host.add(1))
    swept(database)
    host.pictures["/1"] = 2
    assert rechecked() == {"not_modified": 1}

    database[sources.COLLECTION].update_one({}, {"$set": {"full": datetime.now(UTC) - timedelta(days=31)}})
    assert rechecked() == {"changed": 1, "documents": 1}


def test_a_304_with_the_tag_of_other_bytes_is_not_believed(database, host):
    episodes(database, host.add(1))
    swept(database)
    host.pictures["/1"] = 2
    host.answer = lambda asked: 304 if asked.is_conditional else None
    host.asked.clear()

    assert rechecked() == {"changed": 1, "documents": 1}
    assert host.statuses() == [304, 200]


def test_tags_that_change_while_bytes_do_not_cost_one_download(database, host, attempts):
    numbers = iter(range(100))
    host.headers = lambda *_: {"ETag": f'"{next(numbers)}"'}
    episodes(database, host.add(1))
    before = swept(database)
    attempts.clear()
    host.asked.clear()

    assert rechecked() == {"same_bytes": 1}

    assert host.statuses() == [200]
    assert attempts == {"fetch": 1}
    assert by_id(database) == before


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ({"ETag": 'W/"1"'}, {"If-None-Match": 'W/"1"'}),
        ({"ETag": '"1"', "Last-Modified": OLD}, {"If-None-Match": '"1"'}),
        ({"Last-Modified": OLD}, {"If-Modified-Since": OLD}),
    ],
)
def test_validators_are_sent_as_they_came(database, host, headers, sent):
    host.headers = lambda *_: headers
    episodes(database, host.add(1))
    swept(database)
    host.asked.clear()

    assert rechecked() == {"not_modified": 1}

    (asked,) = host.asked
    assert {name: value for name, value in asked.headers.items() if name.startswith("If-")} == sent


def test_validators_belong_to_the_url_that_redirects_led_to(database, host):
    # Given a URL that redirects
    host.add(1, 2)
    host.redirects["/cover"] = "/1"
    episodes(database, [host.url("/cover")])
    swept(database)
    host.asked.clear()
    # Then only its target gets the validators,
    assert rechecked() == {"not_modified": 1}
    assert [(each.path, each.is_conditional) for each in host.asked] == [("/cover", False), ("/1", True)]
    # and another target does not.
    host.redirects["/cover"] = "/2"
    host.headers = lambda *_: {"ETag": '"1"'}  # a host with one tag for everything
    host.asked.clear()
    assert rechecked() == {"changed": 1, "documents": 1}
    assert [(each.path, each.is_conditional) for each in host.asked] == [("/cover", False), ("/2", False)]


@pytest.mark.parametrize("status", [404, 410, 503])
def test_a_cover_that_is_gone_keeps_its_pictures(database, host, attempts, status):
    episodes(database, host.add(1))
    before = swept(database)
    host.answer = lambda _: status
    attempts.clear()

    assert rechecked() == {"failed": 1}
    assert rechecked() == {"failed": 1}

    assert by_id(database) == before
    assert set(attempts) == {"fetch"}
    assert counts("fetch_dlq") == (0, 0)
    (failing,) = sources.failing(0, 10)
    assert (failing.failures, failing.error) == (2, f"http_{status}")
    assert sources.failing(1, 10) == []
    # When it is back, it counts as failing no longer.
    host.answer = lambda _: None
    assert rechecked() == {"not_modified": 1}
    assert sources.failing(0, 10) == []


def test_a_replacement_that_cannot_be_rendered_changes_no_document(database, host, monkeypatch):
    episodes(database, host.add(1))
    before = swept(database)
    host.pictures["/1"] = 2
    monkeypatch.setattr("tests.support.cover_host.picture", lambda _: b"<html>not found</html>")

    assert rechecked() == {"failed": 1}

    assert by_id(database) == before


# Due covers.


def test_each_url_is_asked_once_in_a_period(database, monkeypatch):
    # Given 210 documents of 70 covers, and a clock that the test moves
    monkeypatch.setenv("RECHECK_DAYS", "7")
    lazy.forget()
    urls = [f"http://h/{n % 70}" for n in range(210)]
    database.episodes.insert_many({"itunes_image": url, "last_itunes_image": url} for url in urls)
    nights = [datetime(2026, 3, 1, 2, 30, tzinfo=UTC) + timedelta(days=night) for night in range(14)]
    # When a run begins every night
    asked = [_asked_in_a_night(now, monkeypatch) for now in nights]
    # Then each URL is asked once in each of the two weeks,
    for week in (asked[:7], asked[7:]):
        assert sum(week, Counter()) == dict.fromkeys(urls, 1)
    # and every night some.
    assert all(asked)


def _asked_in_a_night(now, monkeypatch):
    """Take all pages of a run, and end its jobs whenever it waits for them; returns the URLs."""
    run = recheck.begin(f"recheck-{now:%Y-%m-%dT%H:%MZ}", ["episodes"], scheduled_for=now).id
    monkeypatch.setattr(sources, "utcnow", lambda: now + timedelta(minutes=5))
    asked, open_jobs = Counter(), []

    def hand_over(jobs):
        open_jobs.extend(jobs)
        return [None] * len(jobs)

    page = sweep.NextPage(0)
    while page:
        page = recheck.take_page(run, page.page, by=str(page.page), hand_over=hand_over)
        if page and run_state.under_way(run_state.load(run)):
            asked += Counter(job.sources[0].url for job in open_jobs)
            _end(open_jobs, RecheckOutcome.NOT_MODIFIED)
    return asked


def _end(jobs, outcome):
    for job in jobs:
        sources.record(SourceCheck(job.sources[0].url, outcome, run=job.sweep.run, group=job.sweep.cover))
    jobs.clear()


def test_each_url_is_asked_at_most_once_more_per_kill_of_the_sweeping_process(database, monkeypatch):
    # Given a process that dies five times, after it has sent the jobs of a page or before
    monkeypatch.setattr(recheck, "PAGE_SIZE", 10)
    urls = [f"http://h/{n}" for n in range(60)]
    database.episodes.insert_many({"itunes_image": url, "last_itunes_image": url} for url in urls)
    run = recheck.begin("recheck-manual-1", ["episodes"], everything=True).id
    asked, open_jobs, kills = Counter(), [], iter(["after", "before"] * 2 + ["after"])

    def hand_over(jobs):
        kill = next(kills, None)
        if kill == "before":
            raise SystemExit
        asked.update(job.sources[0].url for job in jobs)
        open_jobs.extend(jobs)
        if kill:
            raise SystemExit
        return [None] * len(jobs)

    # When its pages are taken again until the run ends
    page = sweep.NextPage(0)
    while page:
        try:
            page = recheck.take_page(run, page.page, by=str(page.page), hand_over=hand_over)
        except SystemExit:
            continue
        _end(open_jobs, RecheckOutcome.SAME_BYTES)
    # Then each URL was asked, in all at most once more for each kill.
    assert asked.keys() == set(urls)
    assert max(asked.values()) <= 1 + 5
    assert asked.total() <= len(urls) + 3 * 10
    assert run_state.load(run).counts["same_bytes"] == 60


def test_a_limit_is_kept(database, host):
    episodes(database, host.add(*range(10)))
    swept(database)
    assert rechecked(limit=3) == {"not_modified": 3}


def test_two_runs_on_the_same_day_ask_once(database, host):
    episodes(database, host.add(*range(20)))
    swept(database)
    # Given sources that were last asked long ago
    database[sources.COLLECTION].update_many({}, {"$set": {"checked": datetime.now(UTC) - timedelta(days=30)}})
    assert ended(rechecks.start()).counts["not_modified"] == 20
    assert ended(rechecks.start()).claimed == 0
