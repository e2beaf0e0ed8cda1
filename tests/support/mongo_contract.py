"""The behaviour of MongoDB that the sweeps rely on, operator by operator, with examples that run on any server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson import Int64
from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError, OperationFailure

MANUAL = "https://www.mongodb.com/docs/manual/"
QUERY, UPDATE, STAGE = (f"reference/operator/{kind}" for kind in ("query", "update", "aggregation"))
FIND = "reference/command/find/#command-fields"

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
Act = Callable[[Collection[dict[str, Any]]], Any]


@dataclass(frozen=True)
class Rule:
    """One thing that we rely on.

    Attributes:
        uses: the operators and options that the example is about.
        page: the page of MongoDB's manual.
        on: the behaviour, in a sentence.
        given: the documents.
        act: what is done with the collection.
        result: what that returns.
    """

    uses: tuple[str, ...]
    page: str
    on: str
    given: list[dict[str, Any]]
    act: Act
    result: Any


def ids(query: dict[str, Any]) -> Act:
    return lambda collection: sorted(each["_id"] for each in collection.find(query))


def updated(update: Any, query: dict[str, Any] | None = None, **options: Any) -> Act:
    """Update one document, and return all documents."""

    def act(collection: Collection[dict[str, Any]]) -> list[dict[str, Any]]:
        collection.bulk_write([UpdateOne(query or {"_id": 1}, update, **options)], ordered=False)
        return list(collection.find({}, sort=[("_id", 1)]))

    return act


def refused(collection: Collection[dict[str, Any]]) -> bool:
    """Return whether an upsert fails if its `_id` exists and the rest of its query does not match."""
    collection.create_index("a")
    try:
        collection.update_one({"_id": 1, "a": 9}, {"$push": {"b": 1}}, upsert=True)
    except DuplicateKeyError:
        return True
    return False


def scanned(collection: Collection[dict[str, Any]]) -> list[Any]:
    cursor = collection.find({"a": 1}, {"_id": 1}, hint=[("_id", 1)], sort=[("_id", 1)], skip=1, limit=2)
    return [each["_id"] for each in cursor.min([("_id", 2)]).max([("_id", 6)])]


def counted_by_a_partial_index(collection: Collection[dict[str, Any]]) -> int:
    collection.create_index("run", partialFilterExpression={"pending": True})
    return collection.count_documents({"run": "r", "pending": True}, hint="run_1")


def fails_without_the_index(collection: Collection[dict[str, Any]]) -> bool:
    try:
        collection.count_documents({"run": "r"}, hint="run_1")
    except OperationFailure as error:
        return not error.timeout
    return False


def listed_indexes(collection: Collection[dict[str, Any]]) -> list[tuple[str, Any]]:
    collection.create_index("expires", expireAfterSeconds=0)
    return sorted((name, index.get("expireAfterSeconds")) for name, index in collection.index_information().items())


def counts(collection: Collection[dict[str, Any]]) -> list[dict[str, Any]]:
    group = {"_id": "$m.code", "count": {"$sum": 1}}
    return list(
        collection.aggregate([{"$match": {"m": {"$exists": True}}}, {"$group": group}, {"$sort": {"count": -1}}])
    )


def of(*values: Any) -> list[dict[str, Any]]:
    """Return documents with ids from 1 and the values in field `a`. Ellipsis means that the field is missing."""
    return [{"_id": i} | ({} if value is ... else {"a": value}) for i, value in enumerate(values, 1)]


IS_OBJECT = {"$eq": [{"$type": "$m"}, "object"]}
OBJECTS = {"$set": {"m": {"$cond": [IS_OBJECT, "$m", {}]}}}

RULES = (
    Rule(("$eq",), f"{QUERY}/eq/", "null matches a missing field", of(..., None, 0), ids({"a": {"$eq": None}}), [1, 2]),
    Rule(
        ("$eq",), f"{QUERY}/eq/", "a value may look like a query", of({"$x": 1}, 1), ids({"a": {"$eq": {"$x": 1}}}), [1]
    ),
    Rule(("$eq",), f"{QUERY}/eq/", "numbers of all types are equal", of(5, 5.0, Int64(5)), ids({"a": 5}), [1, 2, 3]),
    Rule(("$ne",), f"{QUERY}/ne/", "a missing field differs", of(..., False, True), ids({"a": {"$ne": False}}), [1, 3]),
    Rule(("$ne",), f"{QUERY}/ne/", "null excludes a missing field", of(..., None, 0), ids({"a": {"$ne": None}}), [3]),
    Rule(("$exists",), f"{QUERY}/exists/", "null exists", of(..., None, 1), ids({"a": {"$exists": False}}), [1]),
    Rule(
        ("$exists",),
        f"{QUERY}/exists/",
        "a position in a list exists",
        of([1], [1, 2]),
        ids({"a.1": {"$exists": True}}),
        [2],
    ),
    Rule(
        ("$type",),
        f"{QUERY}/type/",
        "a list of strings is a string",
        of("x", 1, ["x"], None),
        ids({"a": {"$type": "string"}}),
        [1, 3],
    ),
    Rule(
        ("$in",),
        f"{QUERY}/in/",
        "ids of several types at once",
        of("x", 2, None),
        ids({"_id": {"$in": [1, "x", 3]}}),
        [1, 3],
    ),
    Rule(
        ("$nin",),
        f"{QUERY}/nin/",
        "a missing field is in no list",
        of(..., "", "x"),
        ids({"a": {"$nin": [""]}}),
        [1, 3],
    ),
    Rule(
        ("$gt",),
        f"{QUERY}/gt/",
        "dates, and never another type",
        of(NOON, datetime(2027, 1, 1, tzinfo=UTC), True),
        ids({"a": {"$gt": NOON}}),
        [2],
    ),
    Rule(
        ("$gte", "$lt"),
        f"{QUERY}/gte/",
        "strings by their bytes",
        of("c-", "c-0", "c-9Z", "c-:", "c-x"),
        ids({"a": {"$gte": "c-0", "$lt": "c-:"}}),
        [2, 3],
    ),
    Rule(
        ("$and", "$or"),
        f"{QUERY}/and/",
        "each clause holds",
        of(1, 2, 3),
        ids({"$and": [{"$or": [{"a": 1}, {"a": 2}]}, {"a": {"$gt": 1}}]}),
        [2],
    ),
    Rule(
        ("$nor",),
        f"{QUERY}/nor/",
        "both conditions together",
        of({"u": 2, "r": "x"}, {"u": 2, "r": "me"}, True, ...),
        ids({"$nor": [{"a.u": {"$gt": 1}, "a.r": {"$ne": "me"}}]}),
        [2, 3, 4],
    ),
    Rule(
        ("$expr",),
        f"{QUERY}/expr/",
        "two fields of a document; a missing one differs",
        [{"_id": 1, "a": 1, "b": 1}, {"_id": 2, "a": 1, "b": 2}, {"_id": 3, "a": 1}],
        ids({"$expr": {"$ne": ["$a", "$b"]}}),
        [2, 3],
    ),
    Rule(
        ("min", "max", "hint", "sort", "skip", "limit"),
        FIND,
        "`min` is included, `max` is not",
        [{"_id": i, "a": 1} for i in range(1, 8)],
        scanned,
        [3, 4],
    ),
    Rule(
        ("hint",),
        FIND,
        "a partial index counts what it holds",
        [{"_id": 1, "run": "r", "pending": True}, {"_id": 2, "run": "r"}],
        counted_by_a_partial_index,
        1,
    ),
    Rule(("hint",), FIND, "a hint without its index is an error", of(1), fails_without_the_index, True),
    Rule(
        ("$set",),
        f"{UPDATE}/set/",
        "a field of a subdocument",
        [{"_id": 1, "m": {"k": 1}}],
        updated({"$set": {"m.n": 2}}),
        [{"_id": 1, "m": {"k": 1, "n": 2}}],
    ),
    Rule(
        ("$unset",),
        f"{UPDATE}/unset/",
        "a missing field is not an error",
        [{"_id": 1, "m": {"k": 1, "e": 1}}],
        updated({"$unset": {"m.e": "", "m.x": ""}}),
        [{"_id": 1, "m": {"k": 1}}],
    ),
    Rule(
        ("$inc",),
        f"{UPDATE}/inc/",
        "a missing field is created",
        of(1),
        updated({"$inc": {"a": 2, "c.d": 1}}),
        [{"_id": 1, "a": 3, "c": {"d": 1}}],
    ),
    Rule(
        ("$ne",),
        f"{QUERY}/ne/",
        "an object differs from another as a whole",
        of({"x": 1}, {"x": 1, "y": 2}, ...),
        ids({"a": {"$ne": {"x": 1}}}),
        [2, 3],
    ),
    Rule(
        ("$min",),
        f"{UPDATE}/min/",
        "the earlier date stays; a missing field is created",
        of(NOON),
        updated({"$min": {"a": datetime(2027, 1, 1, tzinfo=UTC), "b": NOON}}),
        [{"_id": 1, "a": NOON, "b": NOON}],
    ),
    Rule(
        ("$push", "$each"),
        f"{UPDATE}/push/",
        "several values, in order",
        of([1]),
        updated({"$push": {"a": {"$each": [2, 3]}}}),
        [{"_id": 1, "a": [1, 2, 3]}],
    ),
    Rule(
        ("$pull",),
        f"{UPDATE}/pull/",
        "each equal value is removed",
        of(["x", "y", "x"]),
        updated({"$pull": {"a": "x"}}),
        [{"_id": 1, "a": ["y"]}],
    ),
    Rule(
        ("$setOnInsert", "upsert"),
        f"{UPDATE}/setOnInsert/",
        "an upsert inserts",
        [],
        updated({"$setOnInsert": {"r": 1}, "$push": {"a": {"$each": [1]}}}, upsert=True),
        [{"_id": 1, "a": [1], "r": 1}],
    ),
    Rule(
        ("$setOnInsert", "upsert"),
        f"{UPDATE}/setOnInsert/",
        "an upsert leaves the rest alone",
        of([1]),
        updated({"$setOnInsert": {"r": 1}, "$push": {"a": {"$each": [2]}}}, upsert=True),
        [{"_id": 1, "a": [1, 2]}],
    ),
    Rule(
        ("upsert",),
        "reference/method/db.collection.updateOne/",
        "an upsert of an id that exists and does not match is a duplicate key",
        of(1),
        refused,
        True,
    ),
    Rule(
        ("$cond", "$type", "$set"),
        f"{STAGE}/cond/",
        "what is not an object becomes one",
        [{"_id": 1, "m": "text"}],
        updated([OBJECTS]),
        [{"_id": 1, "m": {}}],
    ),
    Rule(
        ("$cond", "$type", "$set"),
        f"{STAGE}/cond/",
        "an object is kept",
        [{"_id": 1, "m": {"k": 1}}],
        updated([OBJECTS, {"$set": {"m.n": {"$literal": 1}}}]),
        [{"_id": 1, "m": {"k": 1, "n": 1}}],
    ),
    Rule(
        ("$literal",),
        f"{STAGE}/literal/",
        "a value that looks like an expression stays",
        of(1),
        updated([{"$set": {"a": {"$literal": "$_id"}}}]),
        [{"_id": 1, "a": "$_id"}],
    ),
    Rule(
        ("$unset",),
        f"{STAGE}/unset/",
        "a list of fields in a pipeline",
        [{"_id": 1, "m": {"k": 1, "e": 1}, "lock": 1}],
        updated([{"$unset": ["lock", "m.e", "none"]}]),
        [{"_id": 1, "m": {"k": 1}}],
    ),
    Rule(
        ("$match", "$group", "$sum", "$sort"),
        f"{STAGE}/group/",
        "a missing field is the group null",
        [{"_id": 1, "m": {"code": "x"}}, {"_id": 2, "m": {"code": "x"}}, {"_id": 3, "m": {}}, {"_id": 4}],
        counts,
        [{"_id": "x", "count": 2}, {"_id": None, "count": 1}],
    ),
    Rule(
        ("expireAfterSeconds",),
        "core/index-ttl/",
        "a TTL index is listed with its seconds",
        of(1),
        listed_indexes,
        [("_id_", None), ("expires_1", 0)],
    ),
)

#: Operators and options that the sweeps may use. Options without a rule of their own change no result.
KNOWN = frozenset(use for rule in RULES for use in rule.uses) | {"batchSize", "maxTimeMS", "projection", "singleBatch"}
