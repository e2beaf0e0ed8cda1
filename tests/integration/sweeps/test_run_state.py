"""The records of runs and document groups, field by field, because other releases read them too."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.settings import get_settings
from pipeline.sweeps import indexes, run_state
from pipeline.sweeps.documents import CHANNELS, EPISODES
from pipeline.sweeps.run_state import GROUP_GRACE, INDEXES, RUN_DAYS, DocumentGroup
from tests.support.places import far_from_greenwich  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("far_from_greenwich")

AT = datetime(2026, 11, 24, 1, tzinfo=UTC)
OUTCOME = {"stored": {"itunes_image": {}}, "errors": {}, "given_up": False}


def near(found: datetime, expected: datetime) -> bool:
    return abs(found - expected) < timedelta(minutes=2)


def group(name: str, *documents: int) -> DocumentGroup:
    return DocumentGroup(name, "run", "job-1", {"itunes_image": "http://h/1"}, list(documents), attempt="a1")


def join(*groups: DocumentGroup) -> list[DocumentGroup]:
    """Join groups on page 7; returns them as recorded."""
    return run_state.join(groups, page=7)


def test_a_run_is_recorded_with_all_its_fields(database):
    run = run_state.begin(EPISODES, "episodes-1", by="message-1", scheduled_for=AT, limit=7)

    (record,) = database.image_pipeline_sweeps.find()
    now = datetime.now(UTC)
    assert near(record.pop("started"), now)
    assert near(record.pop("expires"), now + timedelta(days=RUN_DAYS))
    assert record == {
        "_id": "episodes-1",
        "collection": "episodes",
        "page": 0,
        "after": [],
        "advanced_by": "message-1",
        "limit": 7,
        "claimed": 0,
        "walked": False,
        "scheduled_for": AT,
    }
    assert run_state.load("episodes-1") == run_state.begin(EPISODES, "episodes-1", by="another", limit=8)
    assert (run.page, run.after, run.advanced_by, run.limit, run.claimed, run.walked) == (
        0,
        [],
        "message-1",
        7,
        0,
        False,
    )
    assert run_state.load("episodes-2") is None


def test_a_run_advances_once_for_each_page(database):
    run = run_state.begin(CHANNELS, "run")

    assert run_state.advance(run, [5], by="message-1", claimed=3, walked=False)
    assert not run_state.advance(run, [6], by="message-2", claimed=4, walked=True)

    second = run_state.load("run")
    assert (second.page, second.after, second.advanced_by, second.claimed, second.walked) == (
        1,
        [5],
        "message-1",
        3,
        False,
    )
    assert "ended" not in database.image_pipeline_sweeps.find_one()
    assert run_state.advance(second, [], by="message-3", claimed=2, walked=True)
    third = run_state.load("run")
    assert (third.page, third.after, third.claimed, third.walked) == (2, [], 5, True)
    assert near(database.image_pipeline_sweeps.find_one()["ended"], datetime.now(UTC))


def test_the_latest_runs_of_a_collection_come_first(database):
    for n, swept in enumerate((CHANNELS, EPISODES, CHANNELS, CHANNELS)):
        run_state.begin(swept, f"{swept.name}-{n}")
        started = AT + timedelta(minutes=n)
        database.image_pipeline_sweeps.update_one({"_id": f"{swept.name}-{n}"}, {"$set": {"started": started}})
    join(group("cover/channels-0/x", 1))

    assert [run.id for run in run_state.latest(CHANNELS, 2)] == ["channels-3", "channels-2"]
    assert [run.id for run in run_state.latest(CHANNELS, 9)] == ["channels-3", "channels-2", "channels-0"]
    assert run_state.latest(EPISODES, 9)[0].started == AT + timedelta(minutes=1)


def test_counts_add_up_and_empty_counts_change_nothing(database):
    run_state.begin(CHANNELS, "run")
    run_state.count("run", Counter({"done": 2, "invalid": 0}))
    run_state.count("run", Counter({"done": 3, "failed": 1}))
    run_state.count("run", Counter())

    assert run_state.load("run").counts == {"done": 5, "failed": 1}


def test_a_document_group_is_recorded_and_expires_after_its_claims(database):
    assert join() == []
    assert join(group("cover/run/1", 1, 2)) == [group("cover/run/1", 1, 2)]

    (record,) = database.image_pipeline_sweeps.find()
    seconds = get_settings().claim_seconds + GROUP_GRACE
    assert near(record.pop("expires"), datetime.now(UTC) + timedelta(seconds=seconds))
    assert record == {
        "_id": "cover/run/1",
        "outcome": None,
        "run": "run",
        "job": "job-1",
        "urls": {"itunes_image": "http://h/1"},
        "attempt": "a1",
        "pending": True,
        "documents": [1, 2],
    }


def test_a_document_group_takes_documents_until_it_has_an_outcome(database):
    join(group("cover/run/1", 1))
    other_job = replace(group("cover/run/1", 2), job="job-2")
    # Job and outcome come from the record, and documents from the page.
    assert join(other_job, group("cover/run/2", 3)) == [group("cover/run/1", 2), group("cover/run/2", 3)]

    found = run_state.find_group("cover/run/1")
    assert found.documents == [1, 2]
    assert run_state.settle(found, OUTCOME)
    assert not run_state.settle(found, {**OUTCOME, "given_up": True})
    again = run_state.find_group("cover/run/1")
    assert (again.outcome, again.urls, again.run) == (OUTCOME, {"itunes_image": "http://h/1"}, "run")
    assert [each.outcome for each in join(group("cover/run/1", 4))] == [OUTCOME]
    assert database.image_pipeline_sweeps.find_one({"_id": "cover/run/1"})["documents"] == [1, 2]
    assert run_state.find_group("cover/run/9") is None


def test_an_outcome_is_not_recorded_if_documents_have_joined_meanwhile(database):
    # Given a group that was read before another document joined
    join(group("cover/run/1", 1))
    read = run_state.find_group("cover/run/1")
    join(group("cover/run/1", 2))
    # Then its outcome is recorded only once the group is read with all its documents.
    assert not run_state.settle(read, OUTCOME)
    assert run_state.find_group("cover/run/1").outcome is None
    assert run_state.settle(run_state.find_group("cover/run/1"), OUTCOME)


@pytest.mark.parametrize("has_index", [True, False])
def test_jobs_are_under_way_from_their_hand_over_to_their_end(database, has_index):
    def under_way(run: str) -> int:
        return run_state.under_way(run_state.load(run))

    # Given two runs, each with an attempt at a page that has recorded groups
    if has_index:
        for by, options, _ in INDEXES:
            indexes.create(run_state.COLLECTION, by, options)
    for name, attempt in (("run", "a1"), ("other", "a2")):
        run_state.attempt(run_state.begin(CHANNELS, name), attempt)
    join(*(group(f"cover/run/{n}", n) for n in range(4)))
    join(replace(group("cover/other/1", 1), run="other", job="job-2", attempt="a2"))
    # Then the jobs are under way once they are handed over: some by an attempt that failed,
    assert under_way("run") == 0
    run_state.handed_over([])
    run_state.handed_over([group("cover/run/3")])
    assert under_way("run") == 1
    assert [each.handed_over for each in join(group("cover/run/3", 9))] == [True]
    # the others by attempts that finished,
    for name, attempt in (("run", "a1"), ("other", "a2")):
        run_state.advance(run_state.load(name), [5], by="m", claimed=4, walked=False, attempt=attempt)
    assert (under_way("run"), under_way("other")) == (4, 1)
    # until their documents are written,
    assert run_state.settle(run_state.find_group("cover/run/0"), OUTCOME)
    assert run_state.settle(run_state.find_group("cover/run/1"), OUTCOME, ended=False)
    assert (under_way("run"), under_way("other")) == (3, 1)
    run_state.ended("cover/run/1")
    assert under_way("run") == 2
    # and never longer than their claims last.
    late = datetime.now(UTC) + timedelta(seconds=GROUP_GRACE - 60)
    database.image_pipeline_sweeps.update_one({"_id": "cover/run/2"}, {"$set": {"expires": late}})
    assert under_way("run") == 1


def test_an_attempt_ends_when_its_page_is_taken_whichever_attempt_took_it(database):
    # Given two attempts at the same page
    run = run_state.begin(CHANNELS, "run")
    assert run_state.attempt(run, "a1")
    assert run_state.attempt(run, "a2")
    assert run_state.load("run").attempts == ["a1", "a2"]
    # When both have handed their jobs over, then only the first advances the run, and neither is left,
    assert run_state.advance(run, [5], by="m", claimed=3, walked=False, attempt="a2")
    assert not run_state.advance(run, [5], by="m", claimed=3, walked=False, attempt="a1")
    assert run_state.load("run").attempts == []
    # and no attempt begins at a page that was taken.
    assert not run_state.attempt(run, "a3")
    assert run_state.load("run").attempts == []


@pytest.mark.parametrize("collection", [CHANNELS, EPISODES])
def test_the_last_scheduled_run_is_the_latest_of_its_collection(database, collection):
    assert run_state.last_scheduled(collection) is None
    for swept in (CHANNELS, EPISODES):
        for n in range(2):
            at = AT + timedelta(days=n, hours=swept is EPISODES)
            run_state.begin(swept, run_state.scheduled_id(swept, at), scheduled_for=at)
    run_state.begin(collection, f"{collection.name}-manual-1")

    assert run_state.last_scheduled(collection) == AT + timedelta(days=1, hours=collection is EPISODES)


def test_a_changed_cover_is_kept_with_the_pictures_before_its_run(database):
    join(group("cover/run/1"), group("cover/run/2"), group("cover/other/1"))
    for before in ({"2x2": {"url": "old"}}, {"2x2": {"url": "new"}}):
        run_state.replaced("cover/run/1", before, 2)
    run_state.replaced("cover/other/1", {}, 1)

    (found,) = run_state.changed_covers("run", 9)
    assert (found["before"], found["replaced"]) == ({"2x2": {"url": "old"}}, 4)
    assert near(found["expires"], datetime.now(UTC) + timedelta(days=RUN_DAYS))
    assert run_state.find_changed("cover/run/1") == found
    assert run_state.find_changed("cover/run/2") is None
