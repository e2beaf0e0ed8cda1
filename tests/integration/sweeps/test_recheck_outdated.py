"""Covers whose pictures were made by another recipe than the present one."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

import pipeline.actors  # builds the broker, on which the actors are declared
from pipeline.clients import lazy
from pipeline.events import RecheckOutcome
from pipeline.ops import rechecks
from pipeline.ops import sweeps as sweeping
from pipeline.sweeps import recheck, run_state, sources, sweep
from pipeline.sweeps.documents import CHANNELS
from pipeline.sweeps.sources import SourceCheck
from tests.support.rechecked import EXTRA, by_id, ended, episodes, swept


@pytest.fixture
def recipe(monkeypatch):
    """Change settings of the recipe."""

    def change(**settings: str) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        lazy.forget()

    return change


def renewed(**options) -> dict[str, int]:
    """Renew the outdated covers; returns the run's counts."""
    return {name: n for name, n in ended(rechecks.start(outdated=True, **options)).counts.items() if n}


def ids_of(documents) -> list[str]:
    return [recheck.content_id_of(each[EXTRA]) for each in documents.values()]


def differing(before, after) -> set[str]:
    """Return the names of fields in which documents differ."""
    return {name for id_ in before for name in after[id_] if after[id_][name] != before[id_].get(name)}


@pytest.mark.parametrize(
    ("change", "names"),
    [({"RENDITIONS": "4x4,2x2,3x3"}, {"4x4", "2x2", "3x3"}), ({"RESIZE_FIT": "contain"}, {"4x4", "2x2"})],
)
def test_a_changed_recipe_reaches_every_document_by_one_download_of_each_url(database, host, recipe, change, names):
    # given twenty covers of two documents each, and a recipe that changed after they were swept
    episodes(database, host.add(*range(20)), copies=2)
    before = swept(database)
    recipe(**change)
    host.asked.clear()
    # when outdated covers are renewed
    assert renewed() == {"renewed": 20, "documents": 40}
    # then each URL was downloaded once, and only the pictures of documents have changed
    assert host.times_asked() == {f"/{n}": 1 for n in range(20)}
    assert set(host.statuses()) == {200}
    after = by_id(database)
    assert all(set(each[EXTRA]) == names for each in after.values())
    assert not set(ids_of(after)) & set(ids_of(before))
    assert differing(before, after) == {EXTRA}
    # and a second run finds nothing
    assert ended(rechecks.start(outdated=True)).claimed == 0
    assert host.asked == []


def test_covers_of_the_present_recipe_are_not_asked_for(database, host):
    episodes(database, host.add(1, 2))
    swept(database)
    host.asked.clear()

    assert renewed() == {}
    assert host.asked == []


def test_without_records_covers_are_downloaded_once_to_compare_them(database, host, recipe):
    # given nothing known of a cover that was swept before the recipe changed, nor of one that was swept after
    episodes(database, host.add(1))
    (old,) = swept(database)
    recipe(RESIZE_FIT="contain")
    episodes(database, host.add(2))
    before = swept(database)
    database[sources.COLLECTION].drop()
    host.asked.clear()
    # when outdated covers are renewed, then only the older one has new pictures
    assert renewed() == {"same_bytes": 1, "changed": 1, "documents": 1}
    assert host.times_asked() == {"/1": 1, "/2": 1}
    after = by_id(database)
    assert [id_ for id_ in after if after[id_] != before[id_]] == [old]
    assert renewed() == {}


def test_a_record_of_an_earlier_release_is_understood(database, host, recipe):
    # given a record as it was before recipes had output formats, and fits of renditions
    episodes(database, host.add(1))
    swept(database)
    known = database[sources.COLLECTION].find_one()["known"]
    assert known["content"]["recipe"] == {"renditions": ["4x4", "2x2"], "fit": "cover"}
    # then its cover is outdated only by another recipe
    assert renewed() == {}
    recipe(OUTPUT_FORMATS="jpeg,png")
    assert renewed() == {"renewed": 1, "documents": 1}
    assert renewed() == {}


def test_a_url_on_many_pages_and_in_two_folders_is_downloaded_once_for_each_folder(database, host, recipe, monkeypatch):
    # given a URL on ten pages of documents, and in the folder of another channel
    monkeypatch.setattr(recheck, "PAGE_SIZE", 2)
    monkeypatch.setenv("SWEEP_MAX_BACKLOG", "1")  # a page waits for the jobs of the page before
    (url,) = host.add(1)
    episodes(database, [url], copies=20)
    episodes(database, [url], channel=2)
    swept(database)
    recipe(RESIZE_FIT="contain")
    host.asked.clear()
    # when outdated covers are renewed
    counted = renewed()
    # then every document has new pictures in its folder, and no page cost a download of its own
    assert counted["documents"] == 21
    assert host.statuses() == [200, 200]
    assert len(set(ids_of(by_id(database)))) == 1
    assert renewed() == {}


def test_the_covers_of_channels_can_be_renewed_alone(database, host, recipe):
    (url,) = host.add(1)
    database.channels.insert_one({"_id": 1, "title": "Show 1", "image_url": url, "itunes_image": url})
    ended(sweeping.start(CHANNELS, limit=None))
    episodes(database, host.add(2))
    before = swept(database)
    recipe(RENDITIONS="3x3")
    host.asked.clear()

    assert renewed(collections=["channels"]) == {"renewed": 1, "documents": 2}

    assert host.times_asked() == {"/1": 1}
    (channel,) = database.channels.find()
    assert set(channel["image_url_extra_images"]) == set(channel[EXTRA]) == {"3x3"}
    assert by_id(database) == before


def test_a_document_without_pictures_is_left_to_the_sweeps(database, host, recipe):
    # given a cover that failed beside another one of its document
    (url,) = host.add(1)
    gone = host.url("/gone")
    database.channels.insert_one({"_id": 1, "title": "Show 1", "image_url": url, "itunes_image": gone})
    ended(sweeping.start(CHANNELS, limit=None))
    recipe(RENDITIONS="3x3")
    host.asked.clear()

    assert renewed() == {"renewed": 1, "documents": 1}
    assert host.times_asked() == {"/1": 1}


def test_a_failing_source_is_asked_again_when_it_is_due_or_on_request(database, host, recipe):
    # given an outdated cover whose host refuses it
    episodes(database, host.add(1))
    before = swept(database)
    recipe(RENDITIONS="3x3")
    host.answer = lambda _: 404
    assert renewed() == {"failed": 1}
    host.asked.clear()
    # then further runs leave it alone
    assert renewed() == {}
    assert host.asked == []
    assert by_id(database) == before
    # and it is asked once its time has come
    database[sources.COLLECTION].update_one({}, {"$set": {"checked": datetime.now(UTC) - timedelta(days=8)}})
    assert renewed() == {"failed": 1}
    # or when everything is to be asked
    host.answer = lambda _: None
    assert renewed(everything=True) == {"renewed": 1, "documents": 1}
    assert renewed(everything=True) == {}


def test_the_nightly_run_renews_what_is_due(database, host, recipe):
    # given two outdated covers, of which one is due, and a due cover whose pictures are of the present recipe
    due, later = host.add(1, 2)
    episodes(database, [due, later])
    before = swept(database)
    recipe(RESIZE_FIT="contain")
    episodes(database, host.add(3))
    swept(database)
    long_ago = {"$set": {"checked": datetime.now(UTC) - timedelta(days=8)}}
    database[sources.COLLECTION].update_many({"url": {"$ne": later}}, long_ago)
    host.asked.clear()
    # when the nightly run comes
    counted = ended(rechecks.start()).counts
    # then the due one alone has new pictures
    assert (counted["renewed"], counted["not_modified"], counted["documents"]) == (1, 1, 1)
    assert sorted((each.path, each.status) for each in host.asked) == [("/1", 200), ("/3", 304)]
    after = by_id(database)
    assert [each["itunes_image"] for id_, each in before.items() if after[id_] != each] == [due]


def test_a_run_with_a_limit_goes_on_where_the_one_before_stopped(database, host, recipe):
    episodes(database, host.add(*range(10)))
    swept(database)
    recipe(RENDITIONS="3x3")
    host.asked.clear()

    assert [renewed(limit=4) for _ in range(4)] == [
        {"renewed": 4, "documents": 4},
        {"renewed": 4, "documents": 4},
        {"renewed": 2, "documents": 2},
        {},
    ]
    assert host.times_asked() == {f"/{n}": 1 for n in range(10)}


def test_killed_processes_change_nothing_about_the_end(database, host, recipe, monkeypatch):
    # given a sweeping process that dies before it has sent the jobs of a page, and after
    monkeypatch.setattr(recheck, "PAGE_SIZE", 10)
    episodes(database, host.add(*range(40)))
    before = swept(database)
    recipe(RENDITIONS="3x3")
    host.asked.clear()
    run = recheck.begin("recheck-manual-1", ["episodes"], outdated=True).id
    kills = iter(["before", "", "after", "", "before", "after"])

    def hand_over(jobs):
        kill = next(kills, "")
        if kill == "before":
            raise SystemExit
        errors = pipeline.actors.broker.enqueue_many([pipeline.actors.fetch_image.message_of(job) for job in jobs])
        if kill:
            raise SystemExit
        return errors

    # when its pages are taken again until the run ends
    page = sweep.NextPage(0)
    while page:
        try:
            page = recheck.take_page(run, page.page, by=str(page.page), hand_over=hand_over)
        except SystemExit:
            continue
    ended(run)
    # then every document is renewed, and only a page that was sent twice was downloaded twice
    after = by_id(database)
    assert {frozenset(each[EXTRA]) for each in after.values()} == {frozenset({"3x3"})}
    assert differing(before, after) == {EXTRA}
    assert max(host.times_asked().values()) <= 2
    assert renewed() == {}


def test_a_stopped_run_is_finished_by_the_next_one(database, monkeypatch):
    # given a run that was stopped after its first page
    monkeypatch.setattr(recheck, "PAGE_SIZE", 10)
    urls = [f"http://h/{n}" for n in range(20)]
    pictures = {"old": {"url": f"/{'0' * 32}_1x1.png"}}
    database.episodes.insert_many({"itunes_image": url, "last_itunes_image": url, EXTRA: pictures} for url in urls)
    asked: Counter[str] = Counter()

    def hand_over(jobs):
        asked.update(job.sources[0].url for job in jobs)
        for job in jobs:
            sources.record(
                SourceCheck(job.sources[0].url, RecheckOutcome.FAILED, run=job.sweep.run, group=job.sweep.cover)
            )
        return [None] * len(jobs)

    first, second = (recheck.begin(f"recheck-manual-{n}", ["episodes"], outdated=True).id for n in (1, 2))
    assert recheck.take_page(first, 0, by="0", hand_over=hand_over)
    run_state.stop(first)
    # when the next run takes its pages
    page = sweep.NextPage(0)
    while page:
        page = recheck.take_page(second, page.page, by=str(page.page), hand_over=hand_over)
    # then each source was asked once, also where it failed
    assert asked == dict.fromkeys(urls, 1)
