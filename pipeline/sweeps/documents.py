"""Find stale documents of the customer, claim them, and write results back to them (contract, section 5).

The modules of sweeps use these operators and no others, which MongoDB 4.2 and the embedded server support:

- queries: `$and`, `$eq`, `$exists`, `$expr` with `$ne`, `$gt`, `$gte`, `$in`, `$lt`, `$ne`, `$nin`, `$nor`, `$or`,
  `$type`, a field of a subdocument, a whole subdocument; hint, limit, max, min, skip and sort by `_id`; a hint for
  a partial index; maxTimeMS
- updates: `$inc`, `$min`, `$pull`, `$push` with `$each`, `$set`, `$setOnInsert`, `$unset`, upserts, in bulk; and as a
  pipeline: `$set` and `$unset` with `$cond`, `$eq`, `$literal`, `$type`
- `$match`, `$group` with `$sum`, `$sort`; a TTL index, and a partial one by equality

Collections are scanned along the index of `_id`, which every collection has. Bounds are `min` and `max`, because `$gt`
matches only ids of its own BSON type. Updates select a document by `_id` and its expected values field by field, by
equality, `$ne` and `$exists`.
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
from bson import Int64
from pymongo import UpdateOne

from pipeline.clients import mongo
from pipeline.payload import IMAGE_FIELDS, folder_name, present_url
from pipeline.settings import get_settings
from pipeline.stages import RECHECK_ACTOR, SWEEP_QUEUES

if TYPE_CHECKING:
    from pymongo.collection import Collection
    from pymongo.cursor import Cursor

#: A page is searched window by window, `WINDOW` documents each, because stale ones may be rare. After `PAGE_TIMEOUT`
#: seconds it ends where the search has got. A retry then rereads at most one window.
PAGE_TIMEOUT = 20
WINDOW = 50_000

#: Timeout of operations on many documents, in seconds.
BULK_TIMEOUT = 60.0

#: Timeout of commands that scan a whole collection, in seconds.
SCAN_TIMEOUT = 3600.0

#: Maximum number of documents per bulk write.
BULK_SIZE = 1000

#: Folder of episodes whose channel is missing or has no title.
NO_CHANNEL = "CUSTOM"


@dataclass(frozen=True)
class Swept:
    """A collection that is swept."""

    name: str
    actor: str  #: the actor of its sweep
    fields: tuple[str, ...]  #: the `IMAGE_FIELDS` its documents have


CHANNELS = Swept("channels", SWEEP_QUEUES[0], IMAGE_FIELDS)
EPISODES = Swept("episodes", SWEEP_QUEUES[1], ("itunes_image",))
SWEPT = {swept.name: swept for swept in (CHANNELS, EPISODES)}

#: The name and the actor of re-checks, whose runs cover both collections.
RECHECK = Swept("recheck", RECHECK_ACTOR, ())


@dataclass(frozen=True)
class Document:
    """A stale document as it was read."""

    id: Any  #: of any BSON type
    urls: dict[str, str]  #: stale image URLs by field
    title: object
    channel: object  #: `_id` of an episode's channel
    seen: dict[str, object]  #: its claim and the URLs processed last, which the query also matched

    @property
    def key(self) -> bytes:
        """The id in a hashable form."""
        return _key(self.id)


class WriteBack(TypedDict):
    """The result of a job, to be written to its documents. Keys are image fields."""

    stored: dict[str, Any]  #: the `…_info` of stored images
    errors: dict[str, dict[str, Any]]  #: the `error_detail` of failed images
    given_up: bool  #: some image failed only after retries, so a later sweep may succeed


def stale(swept: Swept, run: str, now: datetime) -> dict[str, Any]:
    """Return the query for stale documents that have no error mark and no claim of another run."""
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
    """Count the documents that a run would pick now. This scans the whole collection."""
    with mongo.mongo_errors(f"count {swept.name}", timeout=SCAN_TIMEOUT):
        return _collection(swept).count_documents(stale(swept, "", datetime.now(UTC)))


def read(swept: Swept, run: str, after: Sequence[Any], size: int) -> tuple[list[Document], list[Any]]:
    """Read a page of stale documents in the order of `_id`.

    Args:
        swept: the collection.
        run: id of the run, whose own claims are ignored.
        after: the last id of the previous page; empty for the first page.
        size: maximum number of documents.

    Returns:
        The documents, and `after` for the next page; empty at the end of the collection.
    """
    found: list[dict[str, Any]] = []
    ends, reached = time.monotonic() + PAGE_TIMEOUT, list(after)
    with mongo.mongo_errors(f"read stale {swept.name}", timeout=PAGE_TIMEOUT + 2 * BULK_TIMEOUT):
        while True:
            start = reached
            reached, until = _window(swept, start)
            found += _find_stale(swept, run, start, until).limit(size - len(found))
            if len(found) == size or not reached or time.monotonic() >= ends:
                break
    if len(found) == size:
        reached = [found[-1]["_id"]]
    documents = (_document(swept, each) for each in found)
    return [document for document in documents if document.urls], reached


def _find_stale(swept: Swept, run: str, after: Sequence[Any], until: Sequence[Any]) -> Cursor[dict[str, Any]]:
    query = stale(swept, run, datetime.now(UTC))
    if after:
        query["_id"] = {"$ne": after[0]}
    return _scan(swept, after, until, query, stale_fields(swept))


def stale_fields(swept: Swept) -> dict[str, int]:
    """Return the projection of stale documents."""
    fields = {name: 1 for field in swept.fields for name in (field, f"last_{field}")}
    return fields | {"title": 1, "channel_id": 1, "lock": 1}


def _scan(
    swept: Swept, after: Sequence[Any], until: Sequence[Any], query: dict[str, Any], fields: dict[str, int]
) -> Cursor[dict[str, Any]]:
    cursor = _collection(swept).find(query, fields).sort("_id", 1).hint([("_id", 1)]).batch_size(BULK_SIZE)
    if after:
        cursor = cursor.min([("_id", after[0])])
    if until:
        cursor = cursor.max([("_id", until[0])])
    return cursor


def read_settled(swept: Swept, after: Sequence[Any], size: int) -> tuple[list[Document], list[Any]]:
    """Read a page of all documents in the order of `_id`, with the images that were processed under their present URL.

    Args:
        swept: the collection.
        after: the last id of the previous page; empty for the first page.
        size: maximum number of documents.

    Returns:
        The documents with such images, whose `seen` has their `…_extra_images` by field, and `after` for the next page;
        empty at the end of the collection.
    """
    query = {"_id": {"$ne": after[0]}} if after else {}
    names = [name for field in swept.fields for name in (field, f"last_{field}", f"{field}_extra_images")]
    projection = dict.fromkeys([*names, "title", "channel_id"], 1)
    with mongo.mongo_errors(f"read {swept.name}", timeout=PAGE_TIMEOUT):
        found = list(_scan(swept, after, (), query, projection).limit(size))
    settled = [document for each in found if (document := _settled(swept, each)).urls]
    return settled, [found[-1]["_id"]] if len(found) == size else []


def _settled(swept: Swept, found: Mapping[str, Any]) -> Document:
    urls = _urls(swept, found, settled=True)
    seen = {field: found.get(f"{field}_extra_images") for field in urls}
    return Document(found["_id"], urls, found.get("title"), found.get("channel_id"), seen)


def _window(swept: Swept, after: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the last id of the next `WINDOW` documents and the id after it, the upper bound; empty at the end."""
    ids = [each["_id"] for each in _scan(swept, after, (), {}, {"_id": 1}).skip(WINDOW - 1).limit(2)]
    return (ids[:1], ids[1:]) if len(ids) == 2 else ([], [])


def _document(swept: Swept, found: Mapping[str, Any]) -> Document:
    urls = _urls(swept, found, settled=False)
    seen = {name: found.get(name) for name in ("lock", *(f"last_{field}" for field in urls))}
    return Document(found["_id"], urls, found.get("title"), found.get("channel_id"), seen)


def _urls(swept: Swept, found: Mapping[str, Any], *, settled: bool) -> dict[str, str]:
    """Return the URLs of a document by field: those already processed if `settled`, else those still to process."""
    present = {field: url for field in swept.fields if (url := present_url(found.get(field)))}
    return {field: url for field, url in present.items() if (url == found.get(f"last_{field}")) is settled}


def claim(swept: Swept, run: str, documents: Sequence[Document]) -> list[Document]:
    """Claim documents for a run.

    Returns:
        The documents that are claimed now, without documents whose URLs changed since they were read, or which
        another run has claimed or finished meanwhile.
    """
    if not documents:
        return []
    lock = {"until": datetime.now(UTC) + timedelta(seconds=get_settings().claim_seconds), "run": run}
    updates = [UpdateOne(as_read(each), {"$set": {"lock": lock}}) for each in documents]
    with mongo.mongo_errors(f"claim {swept.name}", timeout=BULK_TIMEOUT):
        if _collection(swept).bulk_write(updates, ordered=False).matched_count == len(documents):
            return list(documents)
        ids = [each.id for each in documents]
        ours = {
            _key(each["_id"]) for each in _collection(swept).find({"_id": {"$in": ids}, "lock.run": run}, {"_id": 1})
        }
    return [each for each in documents if each.key in ours]


def as_read(document: Document) -> dict[str, Any]:
    """Return the query that matches a document only if its claim, URLs and marks have not changed since it was read."""
    unmarked = {"metadata.image_is_valid": {"$ne": False}, "metadata.error": {"$exists": False}}
    seen = {name: {"$eq": value} for name, value in document.seen.items()}  # a value may look like a query
    return {"_id": document.id, **document.urls, **seen, **unmarked}


def folders(swept: Swept, documents: Sequence[Document]) -> dict[bytes, str]:
    """Return each document's folder by its key: from its own title, or from its channel's for an episode."""
    if swept is CHANNELS:
        return {each.key: _folder(each.title) or folder_name(None) for each in documents}
    ids = {_key(_plain(each.channel)): each.channel for each in documents}
    with mongo.mongo_errors("read the titles of channels", timeout=BULK_TIMEOUT):
        channels = _collection(CHANNELS).find({"_id": {"$in": [*filter(_may_be_id, ids.values())]}}, {"title": 1})
        titles = {_key(_plain(each["_id"])): _folder(each.get("title")) for each in channels}
    return {each.key: titles.get(_key(_plain(each.channel))) or NO_CHANNEL for each in documents}


def _plain(value: object) -> object:
    """Normalize a number, because 5, 5.0 and NumberLong(5) are equal in MongoDB."""
    exact = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if exact or isinstance(value, Int64) else value  # type: ignore[call-overload]


def _may_be_id(value: object) -> bool:
    """Return whether MongoDB treats `value` as an id rather than as part of a query."""
    return not isinstance(value, bson.Regex | re.Pattern | bson.DBRef) and not (
        isinstance(value, Mapping) and any(name.startswith("$") for name in value)
    )


def _folder(title: object) -> str | None:
    return folder_name(title) if isinstance(title, str) and title.strip() else None


def write(swept: Swept, run: str, urls: Mapping[str, str], result: WriteBack, ids: Sequence[Any]) -> Counter[str]:
    """Write the result of a job to its documents and release their claims.

    Documents without the claim of `run` are skipped. Images are written only if their URL is still the one processed.

    Returns:
        The number of documents now `done`, `invalid` and `failed` (given up after retries), and of those whose URLs had
        `changed`.
    """
    written: Counter[str] = Counter()
    row = "done" if result["stored"] else "failed" if result["given_up"] else "invalid"
    with mongo.mongo_errors(f"write to {swept.name}", timeout=BULK_TIMEOUT):
        for held in _guards(urls, result):
            changes = _changes(held, result)
            written[row if held else "changed"] += _update(swept, ids, {"lock.run": run, **held}, changes)
            if sum(written.values()) == len(ids):
                break
    return written


def _guards(urls: Mapping[str, str], result: WriteBack) -> Iterator[dict[str, str]]:
    """Yield the URLs a document may still hold, all of them first. The first match releases the claim."""
    yield dict(urls)
    if result["stored"] and len(urls) > 1:
        yield from ({field: url} for field, url in urls.items())
    yield {}


def _changes(held: Mapping[str, str], result: WriteBack) -> list[dict[str, Any]]:
    """Return the update of a document that holds `held`. In old documents `metadata` may not be an object."""
    unset = ["lock"]
    if not held:
        return [{"$unset": unset}]
    values: dict[str, Any] = {}
    if result["stored"]:
        for field, url in held.items():
            values[f"last_{field}"] = url
            if field in result["stored"]:
                values[f"{field}_extra_images"] = result["stored"][field]
        values["metadata.image_is_valid"] = True
        unset.append("metadata.error")
    elif result["given_up"]:
        values["metadata.error"] = True
    else:
        values["metadata.image_is_valid"] = False
    if result["errors"]:
        values["metadata.error_detail"] = next(iter(result["errors"].values()))
    else:
        unset.append("metadata.error_detail")
    is_object = {"$eq": [{"$type": "$metadata"}, "object"]}
    return [
        {"$set": {"metadata": {"$cond": [is_object, "$metadata", {}]}}},
        {"$set": {name: {"$literal": value} for name, value in values.items()}},
        {"$unset": unset},
    ]


def _update(swept: Swept, ids: Sequence[Any], guard: Mapping[str, Any], changes: Any) -> int:
    """Update the documents that match `guard`; returns how many."""
    count = 0
    for start in range(0, len(ids), BULK_SIZE):
        updates = [UpdateOne({"_id": each, **guard}, changes) for each in ids[start : start + BULK_SIZE]]
        count += _collection(swept).bulk_write(updates, ordered=False).matched_count
    return count


def pictures(swept: Swept, field: str, document: Any) -> dict[str, Any]:
    """Return the pictures of one image field of a document; empty if it has none."""
    name = f"{field}_extra_images"
    with mongo.mongo_errors(f"read {swept.name}"):
        found = (_collection(swept).find_one({"_id": document}, {name: 1}) or {}).get(name)
    return found if isinstance(found, dict) else {}


def replace_pictures(swept: Swept, field: str, url: str, info: Mapping[str, Any], ids: Sequence[Any]) -> int:
    """Replace the pictures of the documents that still have `url` in `field`; returns how many were replaced."""
    name = f"{field}_extra_images"
    with mongo.mongo_errors(f"write to {swept.name}", timeout=BULK_TIMEOUT):
        return _update(swept, ids, {field: url, name: {"$ne": info}}, {"$set": {name: info}})


# Marks: the errors that a sweep wrote to documents.


def marked(code: str | None, before: datetime | None) -> dict[str, Any]:
    """Return the query for documents with an error mark, which sweeps skip.

    Args:
        code: match only this error code.
        before: match only marks older than this; a mark without a time counts as older.
    """
    query: dict[str, Any] = {"$or": [{"metadata.error": {"$exists": True}}, {"metadata.image_is_valid": False}]}
    if code:
        query["metadata.error_detail.code"] = code
    if before:
        query["$nor"] = [{"metadata.error_detail.at": {"$gt": before}}]
    return query


def count_marks(swept: Swept, query: Mapping[str, Any]) -> dict[str | None, int]:
    """Count the marks that match `query` by error code (None: no code), most frequent first."""
    with mongo.mongo_errors(f"count the marks in {swept.name}", timeout=SCAN_TIMEOUT):
        return {each["_id"]: each["count"] for each in _collection(swept).aggregate(counting(query))}


def counting(query: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the aggregation that counts the marks that match `query` by error code."""
    return [
        {"$match": dict(query)},
        {"$group": {"_id": "$metadata.error_detail.code", "count": {"$sum": 1}}},
        {"$sort": {"count": -1}},
    ]


def clear_marks(swept: Swept, query: Mapping[str, Any]) -> int:
    """Remove the marks that match `query`, so that sweeps pick the documents again. Returns their number."""
    marks = {f"metadata.{name}": "" for name in ("error", "error_detail", "image_is_valid")}
    with mongo.mongo_errors(f"clear the marks in {swept.name}", timeout=SCAN_TIMEOUT):
        return _collection(swept).update_many(query, {"$unset": marks}).modified_count


def _key(value: object) -> bytes:
    return bson.encode({"": value})


def _collection(swept: Swept) -> Collection[dict[str, Any]]:
    return mongo.database()[swept.name]
