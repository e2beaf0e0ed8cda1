"""The customer's documents: which are stale, claiming them, and writing back how it ended (contract, section 5).

Operators used here and in `pipeline.sweeps.run_state`; MongoDB has them all since 4.2, and so has the embedded server:

- queries: `$and`, `$eq`, `$exists`, `$expr` with `$ne`, `$gt`, `$gte`, `$in`, `$lt`, `$ne`, `$nin`, `$nor`, `$or`,
  `$type`, a field of a subdocument, a whole subdocument; hint, limit, max, min, skip and sort by `_id`; maxTimeMS
- updates: `$inc`, `$push` with `$each`, `$set`, `$setOnInsert`, `$unset`, upserts, in bulk; and as a pipeline: `$set`
  and `$unset` with `$cond`, `$eq`, `$literal`, `$type`
- `$match`, `$group` with `$sum`, `$sort`; a TTL index, and a partial one by equality

A collection is walked along the index of `_id`, which every collection has. Bounds are `min` and `max`, not `$gt`: that
one finds only ids of its own BSON type. An update names its document by `_id`, and what it expects there by equality,
`$ne` and `$exists`, field by field.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

import bson
import pymongo
from bson import Int64
from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from pipeline.clients import mongo
from pipeline.payload import IMAGE_FIELDS, folder_name, present_url
from pipeline.settings import get_settings
from pipeline.stages import SWEEP_QUEUES

if TYPE_CHECKING:
    from pymongo.collection import Collection
    from pymongo.cursor import Cursor

#: Seconds that MongoDB may look for one page of stale documents at once. Where they are so rare that it takes longer,
#: the page is looked for in the next `WINDOW` documents, and the next, for `WINDOWS_TIMEOUT`: few are read twice.
PAGE_TIMEOUT = 20
WINDOWS_TIMEOUT = 60
WINDOW = 50_000

#: Seconds for what concerns many documents at once.
BULK_TIMEOUT = 60.0

#: Seconds for what a person asked for, and reads a whole collection.
SCAN_TIMEOUT = 3600.0

#: Documents that one bulk write changes at the most.
BULK_SIZE = 1000

#: The folder of an episode whose channel is not there, or has no title.
NO_CHANNEL = "CUSTOM"


@dataclass(frozen=True)
class Swept:
    """A collection that is swept."""

    name: str
    queue: str  #: of its sweep, without the namespace; the sweep's actor has the same name
    fields: tuple[str, ...]  #: of `IMAGE_FIELDS`, those it has


CHANNELS, EPISODES = (
    Swept(name, queue, fields)
    for name, queue, fields in zip(
        ("channels", "episodes"), SWEEP_QUEUES, (IMAGE_FIELDS, ("itunes_image",)), strict=True
    )
)
SWEPT = {swept.name: swept for swept in (CHANNELS, EPISODES)}


@dataclass(frozen=True)
class Document:
    """A stale document, as it was read."""

    id: Any  #: of any BSON type
    urls: dict[str, str]  #: its stale images, by field
    title: object
    channel: object  #: the `_id` of an episode's channel
    seen: dict[str, object]  #: what else it was picked by: its claim, and the URLs that were processed last

    @property
    def key(self) -> bytes:
        """Its id as something that can be a key in Python."""
        return _key(self.id)


class WriteBack(TypedDict):
    """How a job of a sweep ended, by image field."""

    stored: dict[str, Any]  #: the `…_info` of those that are stored
    errors: dict[str, dict[str, Any]]  #: the `error_detail` of those that are not
    given_up: bool  #: some failed only after retries: another day may do better


def stale(swept: Swept, run: str, now: datetime) -> dict[str, Any]:
    """The query for the documents that a sweep picks: stale, without a mark, and not claimed by another run."""
    differs: list[dict[str, Any]] = [
        {field: {"$type": "string", "$nin": ["", "N/A"]}, "$expr": {"$ne": [f"${field}", f"$last_{field}"]}}
        for field in swept.fields
    ]
    valid = [{"metadata.image_is_valid": True}, {"metadata.image_is_valid": {"$exists": False}}]
    return {
        swept.fields[0]: {"$ne": "N/A"},
        "$and": [{"$or": differs}, {"$or": valid}],
        "metadata.error": {"$exists": False},
        "$nor": [{"lock.until": {"$gt": now}, "lock.run": {"$ne": run}}],
    }


def count_stale(swept: Swept) -> int:
    """How many documents a run that starts now would pick; reads the whole collection."""
    with mongo.mongo_errors(f"count {swept.name}", timeout=SCAN_TIMEOUT):
        return _collection(swept).count_documents(stale(swept, "", datetime.now(UTC)))


def read(swept: Swept, run: str, after: Sequence[Any], size: int) -> tuple[list[Document], list[Any]]:
    """The next stale documents in the order of `_id`, `size` at the most, and where the next page begins.

    `after` and what is returned for it hold one id, or none for the beginning and the end.
    """
    with mongo.mongo_errors(f"look for {swept.name}", timeout=PAGE_TIMEOUT + 2 * WINDOWS_TIMEOUT):
        try:
            with pymongo.timeout(PAGE_TIMEOUT):
                found = list(_find_stale(swept, run, after).limit(size))
            reached = [found[-1]["_id"]] if len(found) == size else []
        except PyMongoError as error:
            if not error.timeout:
                raise
            found, reached = _read_by_windows(swept, run, after, size)
    documents = (_document(swept, each) for each in found)
    return [document for document in documents if document.urls], reached


def _read_by_windows(swept: Swept, run: str, after: Sequence[Any], size: int) -> tuple[list[dict[str, Any]], list[Any]]:
    found: list[dict[str, Any]] = []
    ends = time.monotonic() + WINDOWS_TIMEOUT
    while True:
        reached, until = _window(swept, after)
        found += _find_stale(swept, run, after, until).limit(size - len(found))
        if len(found) == size:
            return found, [found[-1]["_id"]]
        if not reached or time.monotonic() >= ends:
            return found, reached
        after = reached


def _find_stale(swept: Swept, run: str, after: Sequence[Any], until: Sequence[Any] = ()) -> Cursor[dict[str, Any]]:
    query = stale(swept, run, datetime.now(UTC))
    if after:
        query["_id"] = {"$ne": after[0]}
    fields = {name: 1 for field in swept.fields for name in (field, f"last_{field}")}
    return _scan(swept, after, until, query, fields | {"title": 1, "channel_id": 1, "lock": 1})


def _scan(
    swept: Swept, after: Sequence[Any], until: Sequence[Any], query: dict[str, Any], fields: dict[str, int]
) -> Cursor[dict[str, Any]]:
    cursor = _collection(swept).find(query, fields).sort("_id", 1).hint([("_id", 1)]).batch_size(BULK_SIZE)
    if after:
        cursor = cursor.min([("_id", after[0])])
    if until:
        cursor = cursor.max([("_id", until[0])])
    return cursor


def _window(swept: Swept, after: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The last id of the next `WINDOW` documents, and the one behind it, a bound; none where there are fewer."""
    ids = [each["_id"] for each in _scan(swept, after, (), {}, {"_id": 1}).skip(WINDOW - 1).limit(2)]
    return (ids[:1], ids[1:]) if len(ids) == 2 else ([], [])


def _document(swept: Swept, found: Mapping[str, Any]) -> Document:
    urls = {
        field: url
        for field in swept.fields
        if (url := present_url(found.get(field))) and url != found.get(f"last_{field}")
    }
    seen = {name: found.get(name) for name in ("lock", *(f"last_{field}" for field in urls))}
    return Document(found["_id"], urls, found.get("title"), found.get("channel_id"), seen)


def claim(swept: Swept, run: str, documents: Sequence[Document]) -> list[Document]:
    """Claim `documents` for `run`; returns those that are its own now.

    Not so, if their URLs changed since they were read, or another run was faster: claimed them, or is done with them.
    """
    if not documents:
        return []
    lock = {"until": datetime.now(UTC) + timedelta(seconds=get_settings().claim_seconds), "run": run}
    updates = [UpdateOne(_as_read(each), {"$set": {"lock": lock}}) for each in documents]
    with mongo.mongo_errors(f"claim {swept.name}", timeout=BULK_TIMEOUT):
        if _collection(swept).bulk_write(updates, ordered=False).matched_count == len(documents):
            return list(documents)
        ids = [each.id for each in documents]
        ours = {
            _key(each["_id"]) for each in _collection(swept).find({"_id": {"$in": ids}, "lock.run": run}, {"_id": 1})
        }
    return [each for each in documents if each.key in ours]


def _as_read(document: Document) -> dict[str, Any]:
    """The query for a stale document that nobody has claimed, changed or written to since it was read."""
    unmarked = {"metadata.image_is_valid": {"$ne": False}, "metadata.error": {"$exists": False}}
    seen = {name: {"$eq": value} for name, value in document.seen.items()}  # be it an object that looks like a query
    return {"_id": document.id, **document.urls, **seen, **unmarked}


def folders(swept: Swept, documents: Sequence[Document]) -> dict[bytes, str]:
    """The folder of each document by its key: from its own title, or for an episode from its channel's."""
    if swept is CHANNELS:
        return {each.key: _folder(each.title) or folder_name(None) for each in documents}
    ids = {_key(_plain(each.channel)): each.channel for each in documents}
    with mongo.mongo_errors("look up the titles of channels", timeout=BULK_TIMEOUT):
        channels = _collection(CHANNELS).find({"_id": {"$in": [*filter(_may_be_id, ids.values())]}}, {"title": 1})
        titles = {_key(_plain(each["_id"])): _folder(each.get("title")) for each in channels}
    return {each.key: titles.get(_key(_plain(each.channel))) or NO_CHANNEL for each in documents}


def _plain(value: object) -> object:
    """A number as MongoDB compares it: 5, 5.0 and NumberLong(5) are the same to it."""
    exact = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if exact or isinstance(value, Int64) else value  # type: ignore[call-overload]


def _may_be_id(value: object) -> bool:
    """Whether MongoDB takes `value` for an id, and not for a part of a query."""
    return not isinstance(value, bson.Regex | re.Pattern | bson.DBRef) and not (
        isinstance(value, Mapping) and any(name.startswith("$") for name in value)
    )


def _folder(title: object) -> str | None:
    return folder_name(title) if isinstance(title, str) and title.strip() else None


def write(swept: Swept, run: str, urls: Mapping[str, str], outcome: WriteBack, ids: Sequence[Any]) -> Counter[str]:
    """Write `outcome` to those documents of `ids` that still carry the claim of `run`, and release it.

    Each is written as far as it still holds the `urls` that were processed. Returns how many are `done`, `invalid`
    and `failed` (given up after retries) now, and how many had `changed`.
    """
    written: Counter[str] = Counter()
    row = "done" if outcome["stored"] else "failed" if outcome["given_up"] else "invalid"
    with mongo.mongo_errors(f"write to {swept.name}", timeout=BULK_TIMEOUT):
        for held in _guards(urls, outcome):
            changes = _changes(held, outcome)
            written[row if held else "changed"] += _write(swept, run, ids, held, changes)
            if sum(written.values()) == len(ids):
                break
    return written


def _guards(urls: Mapping[str, str], outcome: WriteBack) -> Iterator[dict[str, str]]:
    """What a document may still hold, the most first: the first that fits releases the claim, so no other does."""
    yield dict(urls)
    if outcome["stored"] and len(urls) > 1:
        yield from ({field: url} for field, url in urls.items())
    yield {}


def _changes(held: Mapping[str, str], outcome: WriteBack) -> list[dict[str, Any]]:
    """The update of a document that holds `held`: a pipeline, for `metadata` may be no object in old documents."""
    unset = ["lock"]
    if not held:
        return [{"$unset": unset}]
    values: dict[str, Any] = {}
    if outcome["stored"]:
        for field, url in held.items():
            values[f"last_{field}"] = url
            if field in outcome["stored"]:
                values[f"{field}_extra_images"] = outcome["stored"][field]
        values["metadata.image_is_valid"] = True
        unset.append("metadata.error")
    elif outcome["given_up"]:
        values["metadata.error"] = True
    else:
        values["metadata.image_is_valid"] = False
    if outcome["errors"]:
        values["metadata.error_detail"] = next(iter(outcome["errors"].values()))
    else:
        unset.append("metadata.error_detail")
    is_object = {"$eq": [{"$type": "$metadata"}, "object"]}
    return [
        {"$set": {"metadata": {"$cond": [is_object, "$metadata", {}]}}},
        {"$set": {name: {"$literal": value} for name, value in values.items()}},
        {"$unset": unset},
    ]


def _write(swept: Swept, run: str, ids: Sequence[Any], held: Mapping[str, str], changes: list[dict[str, Any]]) -> int:
    count = 0
    for start in range(0, len(ids), BULK_SIZE):
        updates = [
            UpdateOne({"_id": each, "lock.run": run, **held}, changes) for each in ids[start : start + BULK_SIZE]
        ]
        count += _collection(swept).bulk_write(updates, ordered=False).matched_count
    return count


# Marks: what a sweep wrote of covers that failed.


def marked(code: str | None, before: datetime | None) -> dict[str, Any]:
    """The query for documents that a sweep leaves alone because of an error: of this code, marked before this time.

    A mark without a time is older than any.
    """
    query: dict[str, Any] = {"$or": [{"metadata.error": {"$exists": True}}, {"metadata.image_is_valid": False}]}
    if code:
        query["metadata.error_detail.code"] = code
    if before:
        query["$nor"] = [{"metadata.error_detail.at": {"$gt": before}}]
    return query


def count_marks(swept: Swept, query: Mapping[str, Any]) -> dict[str | None, int]:
    """How many documents have a mark that `query` finds, by code, the most first; None: they have no code."""
    stages: list[dict[str, Any]] = [
        {"$match": dict(query)},
        {"$group": {"_id": "$metadata.error_detail.code", "count": {"$sum": 1}}},
        {"$sort": {"count": -1}},
    ]
    with mongo.mongo_errors(f"count the marks in {swept.name}", timeout=SCAN_TIMEOUT):
        return {each["_id"]: each["count"] for each in _collection(swept).aggregate(stages)}


def clear_marks(swept: Swept, query: Mapping[str, Any]) -> int:
    """Remove the marks that `query` finds, so that the next sweep picks their documents; returns how many."""
    marks = {f"metadata.{name}": "" for name in ("error", "error_detail", "image_is_valid")}
    with mongo.mongo_errors(f"clear the marks in {swept.name}", timeout=SCAN_TIMEOUT):
        return _collection(swept).update_many(query, {"$unset": marks}).modified_count


def _key(value: object) -> bytes:
    return bson.encode({"": value})


def _collection(swept: Swept) -> Collection[dict[str, Any]]:
    return mongo.database()[swept.name]
