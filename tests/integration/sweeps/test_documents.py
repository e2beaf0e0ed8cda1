"""How a sweep picks and claims documents and writes results back, row by row as in the contract."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import bson
import pytest
from bson import Int64, ObjectId, Regex
from bson.datetime_ms import DatetimeMS

from pipeline.clients import mongo
from pipeline.sweeps import documents
from pipeline.sweeps.documents import CHANNELS, EPISODES, WriteBack
from tests.support.places import far_from_greenwich  # noqa: F401 - a fixture

SOON, PAST = datetime(2999, 1, 1, tzinfo=UTC), datetime(2001, 1, 1, tzinfo=UTC)
OURS = {"until": SOON, "run": "run"}
INFO = {"50x50": {"url": "https://s3/x_50x50.png", "bucket_path": "images-resized/A/"}}
NOT_FOUND = {"field": "image_url", "stage": "fetch", "code": "http_404", "message": "gone"}


def read_all(swept, run="run", size=100):
    """Read the ids of all stale documents, page by page."""
    ids, after = [], []
    while True:
        found, after = documents.read(swept, run, after, size)
        ids += [each.id for each in found]
        if not after:
            return ids


def outcome(stored=(), errors=(), *, given_up=False) -> WriteBack:
    return {
        "stored": dict.fromkeys(stored, INFO),
        "errors": {name: NOT_FOUND | {"field": name} for name in errors},
        "given_up": given_up,
    }


# Documents that are picked.


@pytest.mark.parametrize(
    ("document", "urls"),
    [
        ({"image_url": "a"}, {"image_url": "a"}),
        ({"image_url": "a", "last_image_url": "b"}, {"image_url": "a"}),
        ({"image_url": "a", "last_image_url": "a"}, None),
        ({"image_url": "a", "itunes_image": "b"}, {"image_url": "a", "itunes_image": "b"}),
        ({"image_url": "a", "itunes_image": "a"}, {"image_url": "a", "itunes_image": "a"}),
        ({"image_url": "a", "last_image_url": "a", "itunes_image": "b"}, {"itunes_image": "b"}),
        ({"image_url": "a", "itunes_image": "N/A"}, {"image_url": "a"}),
        ({"image_url": "a", "itunes_image": None}, {"image_url": "a"}),
        ({"image_url": "N/A", "itunes_image": "b"}, None),
        ({"itunes_image": "b"}, {"itunes_image": "b"}),
        ({"image_url": "", "itunes_image": "b"}, {"itunes_image": "b"}),
        ({"image_url": "", "last_image_url": "a"}, None),
        ({"image_url": None}, None),
        ({"image_url": 7}, None),
        ({"image_url": ["a"]}, None),
        ({}, None),
        ({"image_url": "a", "metadata": None}, {"image_url": "a"}),
        ({"image_url": "a", "metadata": "text"}, {"image_url": "a"}),
        ({"image_url": "a", "metadata": {"image_is_valid": True}}, {"image_url": "a"}),
        ({"image_url": "a", "metadata": {"image_is_valid": False}}, None),
        ({"image_url": "a", "metadata": {"error": True}}, None),
        ({"image_url": "a", "metadata": {"error": False}}, None),
        ({"image_url": "a", "lock": True}, {"image_url": "a"}),
        ({"image_url": "a", "lock": {"until": PAST, "run": "other"}}, {"image_url": "a"}),
        ({"image_url": "a", "lock": {"until": SOON, "run": "other"}}, None),
        ({"image_url": "a", "lock": OURS}, {"image_url": "a"}),
    ],
)
def test_a_channel_is_picked(database, document, urls):
    database.channels.insert_one(document)

    found, _ = documents.read(CHANNELS, "run", [], 10)

    assert [each.urls for each in found] == ([urls] if urls else [])
    is_list = isinstance(document.get("image_url"), list)  # MongoDB's $type matches a list of strings
    assert documents.count_stale(CHANNELS) == len(found) + is_list - bool(document.get("lock") == OURS)


@pytest.mark.parametrize(
    ("document", "picked"),
    [
        ({"itunes_image": "a"}, True),
        ({"itunes_image": "a", "last_itunes_image": "a"}, False),
        ({"itunes_image": "N/A"}, False),
        ({"itunes_image": ""}, False),
        ({"image_url": "a"}, False),
        ({"itunes_image": "a", "image_url": "N/A"}, True),
    ],
)
def test_an_episode_is_picked(database, document, picked):
    database.episodes.insert_one(document)

    found, _ = documents.read(EPISODES, "run", [], 10)

    assert [each.urls for each in found] == ([{"itunes_image": "a"}] if picked else [])


@pytest.mark.parametrize("size", [1, 3, 100])
def test_ids_of_any_type_are_read_once_each(database, size):
    ids = [7, -1, 2.5, "x", "", ObjectId(), {"a": 1}, None, PAST, True]
    database.channels.insert_many([{"_id": id_, "image_url": "a"} for id_ in ids])
    database.channels.insert_many([{"_id": n, "image_url": "N/A"} for n in range(100, 110)])

    found = read_all(CHANNELS, size=size)

    assert len(found) == len(ids)
    assert all(id_ in found for id_ in ids)


def test_a_page_is_searched_window_by_window(database, monkeypatch):
    database.channels.insert_many([{"_id": n, "image_url": "a" if n % 10 == 0 else "N/A"} for n in range(100)])
    monkeypatch.setattr(documents, "WINDOW", 7)

    assert read_all(CHANNELS, size=4) == list(range(0, 100, 10))
    # A page continues from window to window,
    found, _ = documents.read(CHANNELS, "run", [], 4)
    assert [each.id for each in found] == [0, 10, 20, 30]
    # but only for a limited time: the next page begins where it stopped.
    monkeypatch.setattr(documents, "PAGE_TIMEOUT", 0)
    found, reached = documents.read(CHANNELS, "run", [0], 4)
    assert ([each.id for each in found], reached) == ([], [6])
    assert read_all(CHANNELS, size=4) == list(range(0, 100, 10))


# Claims.


@pytest.mark.usefixtures("far_from_greenwich")
def test_a_claim_has_an_end_and_names_its_run(database, monkeypatch):
    database.channels.insert_one({"_id": 1, "image_url": "a", "lock": True})
    found, _ = documents.read(CHANNELS, "run", [], 10)

    assert documents.claim(CHANNELS, "run", found) == found

    lock = database.channels.find_one()["lock"]
    assert lock["run"] == "run"
    assert set(lock) == {"until", "run"}
    assert abs(lock["until"] - datetime.now(UTC) - timedelta(seconds=21600)) < timedelta(minutes=2)
    assert documents.count_stale(CHANNELS) == 0


def test_a_document_that_two_runs_read_is_claimed_by_one(database):
    database.channels.insert_many([{"_id": n, "image_url": "a"} for n in range(20)])
    mine, _ = documents.read(CHANNELS, "mine", [], 12)
    theirs, _ = documents.read(CHANNELS, "theirs", [], 100)

    got_mine = documents.claim(CHANNELS, "mine", mine)
    got_theirs = documents.claim(CHANNELS, "theirs", theirs)

    assert [each.id for each in got_mine] == list(range(12))
    assert [each.id for each in got_theirs] == list(range(12, 20))


def test_a_url_that_changed_since_it_was_read_is_not_claimed(database):
    database.channels.insert_one({"_id": 1, "image_url": "a"})
    found, _ = documents.read(CHANNELS, "run", [], 10)
    database.channels.update_one({"_id": 1}, {"$set": {"image_url": "b"}})

    assert documents.claim(CHANNELS, "run", found) == []
    assert "lock" not in database.channels.find_one()


@pytest.mark.parametrize(
    ("how", "mark"),
    [
        (outcome(["image_url"]), {"last_image_url": "a"}),
        (outcome([], ["image_url"]), {"metadata.image_is_valid": False}),
        (outcome([], ["image_url"], given_up=True), {"metadata.error": True}),
    ],
)
def test_a_document_that_another_run_has_processed_is_not_claimed(database, how, mark):
    # Given a slow run, and a fast run that processes a document after the slow run has read it
    database.channels.insert_many([{"_id": 1, "image_url": "a"}, {"_id": 2, "image_url": "b"}])
    slow, _ = documents.read(CHANNELS, "slow", [], 10)
    fast, _ = documents.read(CHANNELS, "fast", [], 1)
    documents.claim(CHANNELS, "fast", fast)
    documents.write(CHANNELS, "fast", {"image_url": "a"}, how, [1])
    # When the slow run claims, then it gets only the other document.
    assert [each.id for each in documents.claim(CHANNELS, "slow", slow)] == [2]
    assert database.channels.find_one({"_id": 1, "lock": {"$exists": False}, **mark})


# Folders.


def test_folders_come_from_titles(database):
    database.channels.insert_many(
        [{"_id": 1, "title": "Mundo Cristão"}, {"_id": "two", "title": ""}, {"_id": 3, "title": None}]
    )
    database.episodes.insert_many(
        [
            {"_id": n, "itunes_image": "a", **channel}
            for n, channel in enumerate([{"channel_id": 1}, {"channel_id": "two"}, {"channel_id": 99}, {}])
        ]
    )
    database.channels.update_many({}, {"$set": {"image_url": "a"}})

    episodes, _ = documents.read(EPISODES, "run", [], 10)
    channels, _ = documents.read(CHANNELS, "run", [], 10)

    assert list(documents.folders(EPISODES, episodes).values()) == ["MUNDO_CRISTAO", "CUSTOM", "CUSTOM", "CUSTOM"]
    assert sorted(documents.folders(CHANNELS, channels).values()) == ["MUNDO_CRISTAO", "custom", "custom"]


@pytest.mark.parametrize("channel", [5, 5.0, Int64(5)])
@pytest.mark.parametrize("named", [5, 5.0, Int64(5)])
def test_numbers_that_are_equal_to_mongodb_name_the_same_channel(database, channel, named):
    database.channels.insert_one({"_id": channel, "title": "Five"})
    database.episodes.insert_one({"_id": 1, "itunes_image": "a", "channel_id": named})

    found, _ = documents.read(EPISODES, "run", [], 10)

    assert list(documents.folders(EPISODES, found).values()) == ["FIVE"]


def test_a_date_beyond_pythons_range_can_be_read(database):
    far_off = bson.encode({"until": DatetimeMS(2**60)})

    assert bson.decode(far_off, mongo.database().codec_options) == {"until": DatetimeMS(2**60)}


@pytest.mark.parametrize("value", [7, ["a"], {"a": 1}, {"$oid": "1"}, Regex("^x"), None, True, float("nan"), 1e300])
def test_a_document_with_odd_values_does_not_block_other_documents(database, value):
    odd = {"title": value, "channel_id": value, "last_itunes_image": value, "lock": value}
    database.episodes.insert_many([{"_id": 1, "itunes_image": "a", **odd}, {"_id": 2, "itunes_image": "b"}])

    found, _ = documents.read(EPISODES, "run", [], 10)
    claimed = documents.claim(EPISODES, "run", found)
    folders = documents.folders(EPISODES, claimed)
    documents.write(EPISODES, "run", {"itunes_image": "a"}, outcome(["itunes_image"]), [1])

    assert [each.id for each in claimed] == [1, 2]
    assert list(folders.values()) == ["CUSTOM", "CUSTOM"]
    assert (database.episodes.find_one({"_id": 1}) or {})["last_itunes_image"] == "a"


# Write-back.

BOTH = {"image_url": "a", "itunes_image": "b"}
ONE = {"image_url": "a"}
VALID = {"metadata": {"image_is_valid": True}}


@pytest.mark.parametrize(
    ("urls", "how", "row", "after"),
    [
        pytest.param(
            ONE,
            outcome(["image_url"]),
            "done",
            {"last_image_url": "a", "image_url_extra_images": INFO, "metadata": {"kept": 1, "image_is_valid": True}},
            id="stored",
        ),
        pytest.param(
            BOTH,
            outcome(["image_url", "itunes_image"]),
            "done",
            {
                "last_image_url": "a",
                "image_url_extra_images": INFO,
                "last_itunes_image": "b",
                "itunes_image_extra_images": INFO,
                "metadata": {"kept": 1, "image_is_valid": True},
            },
            id="both stored",
        ),
        pytest.param(
            BOTH,
            outcome(["itunes_image"], ["image_url"]),
            "done",
            {
                "last_image_url": "a",
                "last_itunes_image": "b",
                "itunes_image_extra_images": INFO,
                "metadata": {"kept": 1, "image_is_valid": True, "error_detail": NOT_FOUND},
            },
            id="one stored, one failed",
        ),
        pytest.param(
            ONE,
            outcome([], ["image_url"]),
            "invalid",
            {"metadata": {"kept": 1, "image_is_valid": False, "error_detail": NOT_FOUND}},
            id="failed for good",
        ),
        pytest.param(
            BOTH,
            outcome([], ["image_url", "itunes_image"], given_up=True),
            "failed",
            {"metadata": {"kept": 1, "error": True, "error_detail": NOT_FOUND}},
            id="given up",
        ),
    ],
)
def test_each_outcome_is_written_in_its_row(database, urls, how, row, after):
    before = {"_id": 1, **BOTH, "title": "T", "metadata": {"kept": 1}}
    database.channels.insert_one({**before, "lock": {"until": SOON, "run": "run"}})

    written = documents.write(CHANNELS, "run", urls, how, [1])

    assert database.channels.find_one() == before | after
    assert +written == {row: 1}


def test_a_success_removes_the_marks_of_an_earlier_failure(database):
    marks = {"error": True, "error_detail": NOT_FOUND, "note": "mine"}
    database.channels.insert_one({"_id": 1, **ONE, "metadata": marks, "lock": {"run": "run"}})

    documents.write(CHANNELS, "run", ONE, outcome(["image_url"]), [1])

    assert database.channels.find_one()["metadata"] == {"note": "mine", "image_is_valid": True}


@pytest.mark.parametrize("metadata", [None, "text", 5, [{"a": 1}]])
@pytest.mark.parametrize("how", [outcome(["image_url"]), outcome([], ["image_url"])])
def test_metadata_that_is_not_an_object_becomes_one(database, metadata, how):
    database.channels.insert_one({"_id": 1, **ONE, "metadata": metadata, "lock": {"run": "run"}})

    documents.write(CHANNELS, "run", ONE, how, [1])

    found = database.channels.find_one()
    assert found["metadata"]["image_is_valid"] is bool(how["stored"])
    assert "lock" not in found


@pytest.mark.parametrize(
    "how", [outcome(["image_url"]), outcome([], ["image_url"]), outcome([], ["image_url"], given_up=True)]
)
def test_a_url_that_has_changed_is_not_marked(database, how):
    database.channels.insert_one({"_id": 1, "image_url": "new", "metadata": {"kept": 1}, "lock": {"run": "run"}})

    written = documents.write(CHANNELS, "run", ONE, how, [1])

    assert database.channels.find_one() == {"_id": 1, "image_url": "new", "metadata": {"kept": 1}}
    assert +written == {"changed": 1}


@pytest.mark.parametrize(("changed", "unchanged"), [("image_url", "itunes_image"), ("itunes_image", "image_url")])
def test_only_the_field_whose_url_is_unchanged_is_marked(database, changed, unchanged):
    database.channels.insert_one({"_id": 1, **BOTH, changed: "new", "lock": {"run": "run"}})

    documents.write(CHANNELS, "run", BOTH, outcome(["image_url", "itunes_image"]), [1])

    assert database.channels.find_one() == {
        "_id": 1,
        **BOTH,
        changed: "new",
        f"last_{unchanged}": BOTH[unchanged],
        f"{unchanged}_extra_images": INFO,
        **VALID,
    }


def test_a_failure_is_not_written_if_one_of_two_urls_changed(database):
    """The new URL may be good, and a mark would hide it from the next sweep."""
    database.channels.insert_one({"_id": 1, **BOTH, "itunes_image": "new", "lock": {"run": "run"}})

    documents.write(CHANNELS, "run", BOTH, outcome([], ["image_url", "itunes_image"]), [1])

    assert database.channels.find_one() == {"_id": 1, **BOTH, "itunes_image": "new"}


def test_a_document_that_another_run_has_claimed_is_left_alone(database):
    theirs = {"_id": 1, **ONE, "lock": {"until": SOON, "run": "theirs"}}
    database.channels.insert_one(theirs)

    written = documents.write(CHANNELS, "mine", ONE, outcome(["image_url"]), [1])

    assert database.channels.find_one() == theirs
    assert not +written


def test_urls_that_look_like_expressions_are_written_literally(database):
    urls = {"image_url": "$title"}
    database.channels.insert_one({"_id": 1, **urls, "title": "T", "lock": {"run": "run"}})

    documents.write(CHANNELS, "run", urls, outcome(["image_url"]), [1])

    assert database.channels.find_one()["last_image_url"] == "$title"


# Re-checks.


def test_documents_with_processed_urls_are_read_by_pages(database):
    settled = {"itunes_image": "a", "last_itunes_image": "a", "itunes_image_extra_images": INFO}
    database.episodes.insert_many([{"_id": i, **settled} for i in (1, 2)])
    database.episodes.insert_many([{"_id": 3, "itunes_image": "a", "last_itunes_image": "b"}, {"_id": 4}])

    first, after = documents.read_settled(EPISODES, [], 3)
    second, end = documents.read_settled(EPISODES, after, 3)

    assert ([each.id for each in first + second], after, end) == ([1, 2], [3], [])
    assert first[0].seen == {"itunes_image": INFO}


def test_pictures_are_replaced_where_the_url_is_the_same(database):
    database.episodes.insert_many([{"_id": n, "itunes_image": url} for n, url in enumerate(["a", "new", "a"])])

    assert documents.replace_pictures(EPISODES, "itunes_image", "a", INFO, [0, 1]) == 1
    assert documents.replace_pictures(EPISODES, "itunes_image", "a", INFO, [0, 1]) == 0
    assert [documents.pictures(EPISODES, "itunes_image", n) for n in range(4)] == [INFO, {}, {}, {}]


# Marks.


def test_marks_are_counted_and_cleared_by_code_and_age(database):
    now = datetime.now(UTC).replace(microsecond=0)
    detail = {"field": "image_url", "stage": "fetch"}
    database.channels.insert_many(
        [
            {
                "_id": 1,
                "metadata": {"image_is_valid": False, "error_detail": {**detail, "code": "http_404", "at": now}},
            },
            {"_id": 2, "metadata": {"error": True, "error_detail": {**detail, "code": "timeout", "at": now}}},
            {
                "_id": 3,
                "metadata": {"error": True, "error_detail": {**detail, "code": "timeout", "at": PAST}, "kept": 1},
            },
            {"_id": 4, "metadata": {"error": True}},
            {"_id": 5, "metadata": {"image_is_valid": True, "error_detail": {"code": "timeout", "at": PAST}}},
            {"_id": 6},
        ]
    )

    assert documents.count_marks(CHANNELS, documents.marked(None, None)) == {"timeout": 2, "http_404": 1, None: 1}
    assert documents.clear_marks(CHANNELS, documents.marked("timeout", now - timedelta(days=7))) == 1
    assert database.channels.find_one({"_id": 3})["metadata"] == {"kept": 1}
    assert documents.clear_marks(CHANNELS, documents.marked(None, now - timedelta(days=7))) == 1
    assert documents.clear_marks(CHANNELS, documents.marked(None, None)) == 2
    assert database.channels.find_one({"_id": 5})["metadata"]["image_is_valid"] is True
    assert documents.count_marks(CHANNELS, documents.marked(None, None)) == {}
