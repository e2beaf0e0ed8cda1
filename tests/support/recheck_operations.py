"""Every query and update of re-checks, as an operation on a new database that checks its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.events import RecheckOutcome
from pipeline.job import Content, Known, Validators
from pipeline.recipe import Recipe, parse_rendition
from pipeline.sweeps import documents, indexes, run_state, sources
from pipeline.sweeps.documents import EPISODES, RECHECK
from pipeline.sweeps.run_state import DocumentGroup
from pipeline.sweeps.sources import Check

URL, RUN = "http://h/1", "recheck-manual-1"
KNOWN = Known(Content("0" * 32, ".png", Recipe((parse_rendition("2x2"),))), 7, Validators(URL, '"1"'))
GROUP = DocumentGroup(f"cover/{RUN}/1", RUN, "job", {"itunes_image": URL}, [["episodes", "itunes_image", 1, "F"]])


def settled_documents_are_read_by_pages(db: Any) -> None:
    pictures = {"2x2": {"url": "u"}}
    db.episodes.insert_many(
        [
            {"_id": i, "itunes_image": URL, "last_itunes_image": URL, "itunes_image_extra_images": pictures}
            for i in (1, 2)
        ]
        + [{"_id": 3, "itunes_image": URL, "last_itunes_image": "other"}, {"_id": 4}]
    )
    first, after = documents.read_settled(EPISODES, [], 3)
    second, end = documents.read_settled(EPISODES, after, 3)
    assert ([each.id for each in first + second], after, end) == ([1, 2], [3], [])
    assert first[0].seen == {"itunes_image": pictures}


def pictures_are_replaced_where_the_url_is_the_same(db: Any) -> None:
    db.episodes.insert_many(
        [{"_id": 1, "itunes_image": URL}, {"_id": 2, "itunes_image": "new"}, {"_id": 3, "itunes_image": URL}]
    )
    info = {"2x2": {"url": "u"}}
    assert documents.replace_pictures(EPISODES, "itunes_image", URL, info, [1, 2]) == 1
    assert documents.replace_pictures(EPISODES, "itunes_image", URL, info, [1, 2]) == 0
    assert [documents.pictures(EPISODES, "itunes_image", each) for each in (1, 2, 3, 4)] == [info, {}, {}, {}]


def a_check_is_recorded_and_ends_its_group(db: Any) -> None:
    run_state.begin(RECHECK, RUN)
    run_state.join_once([GROUP])
    check = Check(URL, RecheckOutcome.SAME_BYTES, KNOWN, run=RUN, group=GROUP.id)
    for _ in range(2):
        sources.record(check)
    assert (found := sources.find(URL))
    assert (found.url, found.known, found.failures) == (URL, KNOWN, 0)
    assert found.checked == found.full
    assert sources.find_all([URL, "http://h/2"]) == {URL: found}
    assert (run := run_state.load(RUN))
    assert run.counts == {"same_bytes": 1}
    assert run_state.under_way(run) == 0


def failures_in_a_row_are_counted(db: Any) -> None:
    for _ in range(2):
        sources.record(Check(URL, RecheckOutcome.FAILED, error="http_404"))
    (found,) = sources.failing(0, 9)
    assert (found.failures, found.error) == (2, "http_404")
    assert found.failing
    assert found.failing < found.checked
    assert sources.failing(1, 9) == []
    sources.record(Check(URL, RecheckOutcome.NOT_MODIFIED))
    assert sources.failing(0, 9) == []
    assert sources.find_all([URL])[URL].failures == 0


def changed_covers_are_kept(db: Any) -> None:
    run_state.join_once([GROUP, replace(GROUP, id=f"cover/{RUN}/2"), replace(GROUP, id="cover/other/1", run="other")])
    for before in ({"2x2": {"url": "old"}}, {"2x2": {"url": "new"}}):
        run_state.replaced(GROUP.id, before, 2)
    run_state.replaced("cover/other/1", {}, 1)
    (found,) = run_state.changed_covers(RUN, 9)
    assert (found["before"], found["replaced"]) == ({"2x2": {"url": "old"}}, 4)
    assert (kept := run_state.find_changed(GROUP.id))
    assert kept["_id"] == found["_id"]
    assert run_state.find_changed(f"cover/{RUN}/2") is None
    assert found["expires"] > datetime.now(UTC) + timedelta(days=run_state.RUN_DAYS - 1)


def indexes_of_sources_are_created_and_listed(db: Any) -> None:
    assert [by for by, *_ in indexes.missing(sources.COLLECTION, sources.INDEXES)] == ["expires", "failing"]
    for by, options, _ in sources.INDEXES:
        indexes.create(sources.COLLECTION, by, options)
    assert indexes.missing(sources.COLLECTION, sources.INDEXES) == []


RECHECK_OPERATIONS: list[Callable[[Any], None]] = [
    settled_documents_are_read_by_pages,
    pictures_are_replaced_where_the_url_is_the_same,
    a_check_is_recorded_and_ends_its_group,
    failures_in_a_row_are_counted,
    changed_covers_are_kept,
    indexes_of_sources_are_created_and_listed,
]
