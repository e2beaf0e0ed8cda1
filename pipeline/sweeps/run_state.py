"""State of sweep runs, in the collection `image_pipeline_sweeps` of the customer's database.

A *run* is one pass over a collection. A *document group* is the documents of a run with the same image URLs and folder,
which share one job. Both expire by a TTL index, which `provision` creates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from pipeline.clients import mongo
from pipeline.settings import get_settings
from pipeline.sweeps.documents import BULK_TIMEOUT, Swept, WriteBack
from pipeline.sweeps.indexes import Index

if TYPE_CHECKING:
    from pymongo.collection import Collection

COLLECTION = "image_pipeline_sweeps"

#: Retention of runs, in days.
RUN_DAYS = 90

#: Seconds that a group is kept after the claims of its documents expire, because its job may be late.
GROUP_GRACE = 86_400

#: Maximum number of documents in a group. A MongoDB document holds 16 MB, and one job writes to all of the group.
MAX_DOCUMENTS = 20_000

#: The name that MongoDB gives to the index by `run`.
PENDING_INDEX = "run_1"

#: Indexes: field, options, and purpose.
INDEXES: tuple[Index, ...] = (
    ("expires", {"expireAfterSeconds": 0}, "expires runs and groups"),
    ("run", {"partialFilterExpression": {"pending": True}}, "counts the jobs under way"),
)


@dataclass(frozen=True)
class Run:
    """A run as it was read."""

    id: str
    collection: str
    page: int = 0  #: number of the next page
    after: list[Any] = field(default_factory=list)  #: last id of the previous page; empty at the beginning
    advanced_by: str = ""  #: id of the message that advanced the run to `page`
    limit: int | None = None  #: maximum number of documents to claim
    claimed: int = 0  #: number of documents claimed so far
    walked: bool = False  #: whether the last page was taken
    stopped: bool = False  #: whether a person stopped it before its last page
    counts: dict[str, int] = field(default_factory=dict)  #: finished documents by result
    attempts: list[str] = field(default_factory=list)  #: attempts at pages that have not finished
    started: datetime | None = None
    recheck: dict[str, Any] = field(default_factory=dict)  #: of a re-check; see `pipeline.sweeps.recheck.RecheckScope`
    recheck_days: int | None = None  #: days in which a source is due once; None: an earlier release began the run


@dataclass(frozen=True)
class DocumentGroup:
    """Documents of a run with the same image URLs and folder. One job serves all of them.

    Attributes:
        id: its `_id` in the run state.
        run: id of the run.
        job: id of the job.
        urls: image URLs by field.
        documents: ids of the documents.
        folder: folder of the job's objects. It is not recorded, because only the job needs it.
        attempt: the attempt at a page that recorded the group.
        handed_over: whether the job was sent although that attempt did not finish.
        outcome: result of the job, once it is recorded.
    """

    id: str
    run: str
    job: str
    urls: dict[str, str]
    documents: list[Any] = field(default_factory=list)
    folder: str = ""
    attempt: str = ""
    handed_over: bool = False
    outcome: WriteBack | None = None

    def is_due(self, unfinished: Sequence[str]) -> bool:
        """Return whether the job is still to be sent: its group was recorded by one of these attempts, or is older."""
        return not (self.handed_over or self.outcome) and self.attempt in {"", *unfinished}


Record = TypeVar("Record", Run, DocumentGroup)


def scheduled_id(swept: Swept, at: datetime) -> str:
    """Return the id of the run scheduled for a minute. Repeated messages thus share one run."""
    return f"{swept.name}-{at.astimezone(UTC):%Y-%m-%dT%H:%MZ}"


def last_scheduled(swept: Swept) -> datetime | None:
    """Return the minute, in UTC, of the last scheduled run, or None."""
    with mongo.mongo_errors("read the last run"):
        found = _collection().find_one({"_id": scheduled_ids(swept)}, sort=[("_id", -1)])
    return found["scheduled_for"] if found else None


def scheduled_ids(swept: Swept) -> dict[str, str]:
    """Return the query for ids of scheduled runs. Only these have a digit after the collection."""
    return {"$gte": f"{swept.name}-0", "$lt": f"{swept.name}-:"}


def run_ids(swept: Swept) -> dict[str, str]:
    """Return the query for ids of all runs: "." follows "-". Ids of groups begin differently."""
    return {"$gte": f"{swept.name}-", "$lt": f"{swept.name}."}


def begin(
    swept: Swept,
    run: str,
    *,
    by: str = "",
    scheduled_for: datetime | None = None,
    limit: int | None = None,
    recheck: Mapping[str, Any] | None = None,
    recheck_days: int | None = None,
) -> Run:
    """Record a new run, unless it is recorded already, and return the run as recorded."""
    now = datetime.now(UTC)
    record = {
        "_id": run,
        "collection": swept.name,
        "page": 0,
        "after": [],
        "advanced_by": by,
        "limit": limit,
        "claimed": 0,
        "walked": False,
        "started": now,
        "scheduled_for": scheduled_for,
        "expires": now + timedelta(days=RUN_DAYS),
    } | ({"recheck": dict(recheck), "recheck_days": recheck_days} if recheck else {})
    with mongo.mongo_errors("begin a run"):
        try:
            _collection().insert_one(record)
        except DuplicateKeyError:
            record = _collection().find_one({"_id": run}) or record
    return _read(Run, record)


def load(run: str) -> Run | None:
    """Return the run, or None if it does not exist."""
    with mongo.mongo_errors("read the run"):
        found = _collection().find_one({"_id": run})
    return _read(Run, found) if found else None


def latest(swept: Swept, limit: int) -> list[Run]:
    """List the latest runs over a collection, latest first."""
    with mongo.mongo_errors("read the runs"):
        found = _collection().find({"_id": run_ids(swept)}, sort=[("started", -1)], limit=limit)
        return [_read(Run, each) for each in found]


def attempt(run: Run, name: str) -> bool:
    """Record an attempt at the page `run.page`, which lasts until `advance`.

    A finished attempt has sent the jobs of all groups that it recorded, so these need no mark of their own. An attempt
    that fails, or whose worker dies, stays in the run, and a later attempt sends the jobs of its groups.

    Returns:
        False if the run is at another page by now.
    """
    with mongo.mongo_errors("record an attempt at a page"):
        update = {"$push": {"attempts": name}}
        return _collection().update_one({"_id": run.id, "page": run.page}, update).matched_count == 1


def advance(run: Run, after: list[Any], *, by: str, claimed: int, walked: bool, attempt: str = "") -> bool:
    """Finish an attempt, and advance the run to the page after `run.page`.

    Returns:
        False if another message has already advanced the run.
    """
    changes = {"page": run.page + 1, "after": after, "advanced_by": by}
    if walked:  # a run that was stopped meanwhile stays so
        changes |= {"walked": True, "ended": datetime.now(UTC)}
    with mongo.mongo_errors("advance the run"):
        finished = {"$pull": {"attempts": attempt}}
        update = {"$set": changes, "$inc": {"claimed": claimed}, **finished}
        if _collection().update_one({"_id": run.id, "page": run.page}, update).matched_count:
            return True
        _collection().update_one({"_id": run.id}, finished)
        return False


def stop(run: str) -> bool:
    """Let a run take no more pages. Its jobs go on. Returns False if it has taken its last page already."""
    with mongo.mongo_errors("stop the run"):
        changes = {"walked": True, "stopped": True, "ended": datetime.now(UTC)}
        return _collection().update_one({"_id": run, "walked": False}, {"$set": changes}).matched_count == 1


def under_way(run: Run) -> int:
    """Count the jobs of the run that were handed over and have not ended.

    Jobs whose claims have expired do not count, because a job never ends if its write-back was given up.
    """
    query = pending(run.id, run.attempts, datetime.now(UTC))
    with mongo.mongo_errors("count the jobs under way", timeout=BULK_TIMEOUT):
        try:  # MongoDB may choose the index by `expires`, which holds all groups of all runs
            return _collection().count_documents(query, hint=PENDING_INDEX)
        except OperationFailure as error:
            if error.timeout:
                raise
            return _collection().count_documents(query)  # `provision` has not created the index yet


def pending(run: str, attempts: Sequence[str], now: datetime) -> dict[str, Any]:
    """Return the query for the groups whose jobs are under way."""
    return {
        "run": run,
        "pending": True,
        "expires": {"$gt": now + timedelta(seconds=GROUP_GRACE)},
        "$or": [{"attempt": {"$nin": list(attempts)}}, {"handed_over": True}],
    }


def room_for(documents: int) -> dict[str, Any]:
    """Return the query for groups without an outcome and with at most this many documents."""
    return {"outcome": None, f"documents.{documents}": {"$exists": False}}


def join(groups: Sequence[DocumentGroup], page: int) -> list[DocumentGroup]:
    """Record the documents of one page, adding them to the groups that exist already.

    A group with an outcome takes no more documents. Outcomes are read after documents were added. So either the sweep
    sees the outcome, or the process that settles the group sees the documents.

    Args:
        groups: the page's documents.
        page: number of the page. Documents whose group is full become a group of their own, named after the page.

    Returns:
        The groups with the documents of this page alone, and everything else as recorded.
    """
    joined, full = join_once(groups)
    return joined + join_once([replace(group, id=f"{group.id}/{page}") for group in full])[0]


def join_once(groups: Sequence[DocumentGroup]) -> tuple[list[DocumentGroup], list[DocumentGroup]]:
    """Record documents as `join` does. Returns the groups, and separately the full groups."""
    if not groups:
        return [], []
    with mongo.mongo_errors("record groups of documents", timeout=BULK_TIMEOUT):
        settled = _find([group.id for group in groups], outcome={"$ne": None})
        unsettled = [group for group in groups if group.id not in settled]
        new, refused = _add(unsettled)
        if refused:  # perhaps only because another process inserted the group at the same moment
            _, refused = _add([group for group in unsettled if group.id in refused])
        recorded = settled | _find([group.id for group in unsettled if group.id not in new])
    full = {id_ for id_ in refused if id_ in recorded and recorded[id_].outcome is None}
    joined = [
        replace(recorded.get(group.id, group), documents=group.documents, folder=group.folder)
        for group in groups
        if group.id not in full
    ]
    return joined, [group for group in groups if group.id in full]


def _find(ids: Sequence[str], **more: Any) -> dict[str, DocumentGroup]:
    if not ids:
        return {}
    found = _collection().find({"_id": {"$in": ids}, **more}, {"documents": 0})
    return {each["_id"]: _read(DocumentGroup, each) for each in found}


def _add(groups: Sequence[DocumentGroup]) -> tuple[set[str], set[str]]:
    """Add documents. Returns the ids of new groups, and of groups that refused them: full, or with an outcome."""
    if not groups:
        return set(), set()
    expires = datetime.now(UTC) + timedelta(seconds=get_settings().claim_seconds + GROUP_GRACE)
    updates = [_joining(group, expires) for group in groups]
    try:
        result: Mapping[str, Any] = _collection().bulk_write(updates, ordered=False).bulk_api_result
    except BulkWriteError as error:
        result = error.details or {}
        if any(each["code"] != mongo.DUPLICATE_KEY for each in result["writeErrors"]) or result["writeConcernErrors"]:
            raise
    new, refused = ({groups[each["index"]].id for each in result[name]} for name in ("upserted", "writeErrors"))
    return new, refused


def _joining(group: DocumentGroup, expires: datetime) -> UpdateOne:
    """Return the update that adds documents. If the group takes no more, it becomes an insert and fails."""
    new = {
        "run": group.run,
        "job": group.job,
        "urls": group.urls,
        "attempt": group.attempt,
        "pending": True,
        "expires": expires,
    }
    return UpdateOne(
        {"_id": group.id, **room_for(MAX_DOCUMENTS - 1)},
        {"$setOnInsert": new, "$push": {"documents": {"$each": group.documents}}},
        upsert=True,
    )


def handed_over(groups: Sequence[DocumentGroup]) -> None:
    """Record that the jobs of `groups` were sent by an attempt other than the recorded one, or one about to fail."""
    if groups:
        with mongo.mongo_errors("record the jobs handed over", timeout=BULK_TIMEOUT):
            marks = [UpdateOne({"_id": group.id}, {"$set": {"handed_over": True}}) for group in groups]
            _collection().bulk_write(marks, ordered=False)


def find_group(group_id: str) -> DocumentGroup | None:
    """Return a group with all its documents, or None if it has expired."""
    with mongo.mongo_errors("read a group of documents"):
        found = _collection().find_one({"_id": group_id})
    return _read(DocumentGroup, found) if found else None


def settle(group: DocumentGroup, result: WriteBack, *, ended: bool = True) -> bool:
    """Record the result of a group's job, unless one is recorded or documents have joined since the group was read.

    Args:
        group: the group as it was read.
        result: result of the job.
        ended: whether all its documents are written, so that the job no longer counts as under way.

    Returns:
        Whether the result was recorded.
    """
    changes: dict[str, Any] = {"$set": {"outcome": result}} | ({"$unset": {"pending": ""}} if ended else {})
    with mongo.mongo_errors("record the outcome of a group of documents"):
        return _collection().update_one({"_id": group.id, **room_for(len(group.documents))}, changes).matched_count == 1


def ended(group_id: str) -> None:
    """Record that all documents of a group are written, so that its job no longer counts as under way."""
    with mongo.mongo_errors("record the end of a group of documents"):
        _collection().update_one({"_id": group_id}, {"$unset": {"pending": ""}})


def end_unchanged(group_id: str) -> bool:
    """End a group of a re-check whose documents stay as they are. Returns False if it had ended before."""
    nothing: WriteBack = {"stored": {}, "errors": {}, "given_up": False}
    with mongo.mongo_errors("record the end of a group of documents"):
        ended = {"$set": {"outcome": nothing}, "$unset": {"pending": ""}}
        return _collection().update_one({"_id": group_id, "pending": True}, ended).matched_count == 1


def replaced(group_id: str, before: Mapping[str, Any], documents: int) -> None:
    """Keep a group with a changed picture as long as its run, with the pictures that its documents had before."""
    now = datetime.now(UTC)
    values = {"at": now, "expires": now + timedelta(days=RUN_DAYS)}
    with mongo.mongo_errors("record a changed cover"):
        _collection().update_one({"_id": group_id}, {"$set": values, "$inc": {"replaced": documents}})
        _collection().update_one({"_id": group_id, "before": {"$exists": False}}, {"$set": {"before": dict(before)}})


def changed(run: str) -> dict[str, Any]:
    """Return the query for the groups of a run whose documents got new pictures. "0" follows "/"."""
    return {"_id": {"$gte": f"cover/{run}/", "$lt": f"cover/{run}0"}, "before": {"$exists": True}}


def find_changed(group_id: str) -> dict[str, Any] | None:
    """Return a changed cover as `changed_covers` does, or None."""
    with mongo.mongo_errors("read a changed cover"):
        return _collection().find_one({"_id": group_id, "before": {"$exists": True}}, {"documents": 0})


def changed_covers(run: str, limit: int) -> list[dict[str, Any]]:
    """List the changed covers of a run: `urls`, `before`, `outcome`, `replaced` and `at`."""
    with mongo.mongo_errors("list the changed covers"):
        found = _collection().find(changed(run), {"documents": 0}).limit(limit)
        return sorted(found, key=lambda each: each["at"], reverse=True)


def count(run: str, written: Counter[str]) -> None:
    """Add to the run's counts. A worker killed just before this leaves its documents uncounted."""
    if total := {f"counts.{name}": number for name, number in written.items() if number}:
        with mongo.mongo_errors("count the documents written"):
            _collection().update_one({"_id": run}, {"$inc": total})


def _read(record_type: type[Record], found: Mapping[str, Any]) -> Record:
    names = {each.name for each in fields(record_type)}
    return record_type(id=found["_id"], **{name: value for name, value in found.items() if name in names})


def _collection() -> Collection[dict[str, Any]]:
    return mongo.database()[COLLECTION]
