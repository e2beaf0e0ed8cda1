"""The plans that MongoDB chooses for the queries of the sweeps: `image-pipeline check --mongo-explain`.

Nothing is written: an update is explained as the query that finds its documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pymongo
from bson import MaxKey, MinKey
from pymongo.errors import OperationFailure, PyMongoError

from pipeline.clients import mongo
from pipeline.sweeps import documents, run_state, sources
from pipeline.sweeps.documents import CHANNELS, EPISODES, PAGE_TIMEOUT, Document, Swept
from pipeline.sweeps.recheck import PAGE_SIZE as RECHECK_PAGE
from pipeline.sweeps.sweep import PAGE_SIZE

#: The keys under which a plan has its parts. MongoDB 5 to 8, with the classic engine, the slot-based one, and shards.
#: https://www.mongodb.com/docs/manual/reference/explain-results/
_CHILDREN: Final = ("winningPlan", "queryPlan", "inputStage", "inputStages", "shards", "outerStage", "innerStage")

#: Stages that look up an id without naming an index.
_BY_ID: Final = frozenset({"IDHACK", "EXPRESS_IXSCAN", "EXPRESS_CLUSTERED_IXSCAN", "CLUSTERED_IXSCAN"})

#: The stage of a collection that does not exist.
_NOTHING: Final = "EOF"

ID_INDEX: Final = "_id_"

#: Error code of MongoDB for a hint that names no index.
BAD_VALUE: Final = 2


@dataclass(frozen=True)
class SweepQuery:
    """A query of the sweeps.

    Attributes:
        collection: its collection.
        purpose: the part of a sweep that asks it.
        index: the index that serves it; empty if it reads the whole collection, whichever index exists.
        command: the command as MongoDB gets it.
    """

    collection: str
    purpose: str
    index: str
    command: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A plan: its stages from the last to the first, the indexes, and how many documents it examined and returned."""

    stages: tuple[str, ...]
    indexes: tuple[str, ...]
    examined: int | None = None  #: None if the query was planned, but did not end in time
    returned: int | None = None

    def uses(self, index: str) -> bool:
        """Return whether the plan uses an index, or needs none. A look-up by id may use one without naming it."""
        by_id = index == ID_INDEX and not _BY_ID.isdisjoint(self.stages)
        return index in self.indexes or by_id or _NOTHING in self.stages


@dataclass(frozen=True)
class Explained:
    """A query with its plan, or with the reason why the server does not tell."""

    query: SweepQuery
    plan: Plan | None
    problem: str = ""

    @property
    def is_served(self) -> bool:
        """Whether the index that the query needs serves it."""
        return self.plan is not None and (not self.query.index or self.plan.uses(self.query.index))


def sweep_queries(now: datetime) -> Iterator[SweepQuery]:
    """Yield every query of the sweeps with example values. A test compares them with what the sweeps really send."""
    yield from _queries_of(CHANNELS, now)
    yield _find(CHANNELS.name, "the titles of a page's channels", ID_INDEX, {"_id": {"$in": [0]}}, {"title": 1})
    yield from _queries_of(EPISODES, now)
    yield from _queries_of_runs(now)
    for swept in (CHANNELS, EPISODES):
        yield from _queries_of_rechecks(swept)
    yield from _queries_of_sources(now)


def _queries_of(swept: Swept, now: datetime) -> Iterator[SweepQuery]:
    first, last, run = {"_id": MinKey()}, {"_id": MaxKey()}, "a-run"
    stale = documents.stale(swept, run, now)
    later = stale | {"_id": {"$ne": MinKey()}}
    scan: dict[str, Any] = {"sort": {"_id": 1}, "hint": {"_id": 1}}
    fields, page = documents.stale_fields(swept), {"limit": PAGE_SIZE}
    urls = dict.fromkeys(swept.fields, "https://example.com/cover.jpg")
    seen = dict.fromkeys(("lock", *(f"last_{field}" for field in swept.fields)))
    as_read = documents.as_read(Document(0, urls, None, None, seen))
    yield _find(swept.name, "the first page", ID_INDEX, stale, fields, **scan, **page)
    yield _find(swept.name, "the first part of a page", ID_INDEX, stale, fields, **scan, max=last, **page)
    yield _find(swept.name, "a later page", ID_INDEX, later, fields, **scan, min=first, **page)
    yield _find(swept.name, "a part of a page", ID_INDEX, later, fields, **scan, min=first, max=last, **page)
    window = {"skip": documents.WINDOW - 1, "limit": 2}
    yield _find(swept.name, "the end of the first part", ID_INDEX, {}, {"_id": 1}, **scan, **window)
    yield _find(swept.name, "the end of a later part", ID_INDEX, {}, {"_id": 1}, **scan, min=first, **window)
    yield _find(swept.name, "claim a document", ID_INDEX, as_read)
    yield _find(swept.name, "the claimed documents", ID_INDEX, {"_id": {"$in": [0]}, "lock.run": run}, {"_id": 1})
    yield _find(swept.name, "write a result", ID_INDEX, {"_id": 0, "lock.run": run, **urls})
    yield _count(swept.name, "count what a run would pick", "", stale)
    marked = documents.marked("http_404", now)
    yield _find(swept.name, "list the marks", "", documents.marked(None, None), limit=100)
    yield _find(swept.name, "clear the marks", "", marked)
    yield SweepQuery(
        swept.name,
        "count the marks",
        "",
        {"aggregate": swept.name, "pipeline": documents.counting(marked), "cursor": {}},
    )


def _queries_of_rechecks(swept: Swept) -> Iterator[SweepQuery]:
    scan: dict[str, Any] = {"sort": {"_id": 1}, "hint": {"_id": 1}, "limit": RECHECK_PAGE}
    later = {"_id": {"$ne": MinKey()}}
    yield _find(swept.name, "the first page of a re-check", ID_INDEX, {}, **scan)
    yield _find(swept.name, "a later page of a re-check", ID_INDEX, later, **scan, min={"_id": MinKey()})
    field = swept.fields[-1]
    with_url = {"_id": 0, field: "https://example.com/cover.jpg", f"{field}_extra_images": {"$ne": {}}}
    yield _find(swept.name, "replace the pictures of a document", ID_INDEX, with_url)


def _queries_of_sources(now: datetime) -> Iterator[SweepQuery]:
    name = sources.COLLECTION
    yield _find(name, "a source", ID_INDEX, {"_id": "a-source"})
    yield _find(name, "the sources of a page", ID_INDEX, {"_id": {"$in": ["a-source"]}})
    yield _find(name, "failing sources", "failing_1", {"failing": {"$lt": now}}, sort={"failing": 1}, limit=100)
    changed = run_state.changed("recheck-2026-01-01T01:00Z")
    yield _find(run_state.COLLECTION, "the changed covers of a re-check", ID_INDEX, changed, {"documents": 0})


def _queries_of_runs(now: datetime) -> Iterator[SweepQuery]:
    name, run = run_state.COLLECTION, "channels-2026-01-01T01:00Z"
    scheduled = run_state.scheduled_ids(CHANNELS)
    yield _find(name, "the last scheduled run", ID_INDEX, {"_id": scheduled}, sort={"_id": -1}, limit=1)
    yield _find(name, "the latest runs", ID_INDEX, {"_id": run_state.run_ids(CHANNELS)}, sort={"started": -1}, limit=10)
    yield _find(name, "a run or a group", ID_INDEX, {"_id": run})
    yield _find(name, "advance a run", ID_INDEX, {"_id": run, "page": 0})
    yield _find(name, "stop a run", ID_INDEX, {"_id": run, "walked": False})
    pending = run_state.pending(run, ["an-attempt"], now)
    yield _count(name, "count the jobs under way", run_state.PENDING_INDEX, pending, hint=run_state.PENDING_INDEX)
    yield _count(name, "count them without that index", "", pending)
    yield _find(name, "the groups of a page", ID_INDEX, {"_id": {"$in": ["a-group"]}}, {"documents": 0})
    settled = {"_id": {"$in": ["a-group"]}, "outcome": {"$ne": None}}
    yield _find(name, "the settled groups of a page", ID_INDEX, settled, {"documents": 0})
    yield _find(name, "settle or fill a group", ID_INDEX, {"_id": "a-group", **run_state.room_for(1)})


def _find(
    collection: str,
    purpose: str,
    index: str,
    query: Mapping[str, Any],
    projection: Mapping[str, int] | None = None,
    **more: Any,
) -> SweepQuery:
    fields = {"projection": dict(projection)} if projection else {}
    return SweepQuery(collection, purpose, index, {"find": collection, "filter": dict(query), **fields, **more})


def _count(collection: str, purpose: str, index: str, query: Mapping[str, Any], **more: Any) -> SweepQuery:
    """Return the query of a count, which pymongo sends as an aggregation."""
    pipeline = [{"$match": dict(query)}, {"$group": {"_id": 1, "n": {"$sum": 1}}}]
    return SweepQuery(collection, purpose, index, {"aggregate": collection, "pipeline": pipeline, "cursor": {}, **more})


def explain_all() -> Iterator[Explained]:
    """Ask MongoDB for the plan of each query.

    Raises:
        RetryableError: MongoDB does not answer.
    """
    mongo.reach()
    for query in sweep_queries(datetime.now(UTC)):
        yield _explain(query)


def _explain(query: SweepQuery) -> Explained:
    problem = "The server's answer has no plan that could be read."
    for verbosity in ("executionStats", "queryPlanner"):
        try:
            with pymongo.timeout(PAGE_TIMEOUT):
                answer = mongo.database().command({"explain": query.command, "verbosity": verbosity})
        except PyMongoError as error:
            problem = _problem(error)
            if not error.timeout:
                break
        else:
            if plan := read_plan(answer):
                return Explained(query, plan)
            break
    return Explained(query, None, problem)


def _problem(error: PyMongoError) -> str:
    """Explain an error without its text, which may contain hosts and documents."""
    if error.timeout:
        return f"The server made no plan within {PAGE_TIMEOUT} s."
    code = error.code if isinstance(error, OperationFailure) else None
    if code == BAD_VALUE:
        return "An index that the query asks for does not exist: `image-pipeline provision` creates it."
    return f"The server does not explain it: {type(error).__name__}{f' {code}' if code else ''}."


def read_plan(answer: Mapping[str, Any]) -> Plan | None:
    """Read the answer of the command `explain`; None if it has no plan of a known shape."""
    parts = list(_parts(answer))
    found = [stage for part in parts for stage in _stages(part.get("queryPlanner"))]
    stages = tuple(dict.fromkeys(str(stage["stage"]) for stage in found))
    if not stages:
        return None
    indexes = tuple(dict.fromkeys(str(stage["indexName"]) for stage in found if "indexName" in stage))
    stats = [part["executionStats"] for part in parts if isinstance(part.get("executionStats"), Mapping)]
    return Plan(stages, indexes, _sum(stats, "totalDocsExamined"), _sum(stats, "nReturned"))


def _parts(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the parts that have a plan: the answer itself, the first stage of an aggregation, or the shards."""
    if "queryPlanner" in answer:
        yield answer
        return
    for stage in answer.get("stages", ()):
        if "$cursor" in stage:
            yield stage["$cursor"]
    shards = answer.get("shards", {})
    for shard in shards.values() if isinstance(shards, Mapping) else ():
        yield from _parts(shard)


def _stages(plan: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the stages of a plan, the last first. Rejected plans are left out."""
    if isinstance(plan, list):
        for each in plan:
            yield from _stages(each)
    elif isinstance(plan, Mapping):
        if "stage" in plan:
            yield plan
        for name in _CHILDREN:
            yield from _stages(plan.get(name))


def _sum(stats: list[Mapping[str, Any]], name: str) -> int | None:
    numbers = [each[name] for each in stats if isinstance(each.get(name), int)]
    return sum(numbers) if numbers else None
