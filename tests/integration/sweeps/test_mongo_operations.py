"""Every query and update of the sweeps on the embedded server; each uses only what is known and explained."""

from __future__ import annotations

import ast
import re
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandListener

from pipeline.clients import lazy, mongo
from pipeline.local.embedded import EmbeddedStack
from pipeline.ops.mongo_plans import sweep_queries
from pipeline.sweeps import documents, indexes, marks, run_state
from pipeline.sweeps.documents import CHANNELS, EPISODES, WriteBack
from pipeline.sweeps.run_state import DocumentGroup
from tests.support.mongo_contract import KNOWN
from tests.support.recheck_operations import RECHECK_OPERATIONS

SWEEPS = Path(documents.__file__).parent
NOW = datetime.now(UTC).replace(microsecond=0)
STORED: WriteBack = {"stored": {"itunes_image": {"50x50": {"url": "u"}}}, "errors": {}, "given_up": False}
MARKED = {"error": True, "error_detail": {"code": "timeout", "at": NOW - timedelta(days=9)}}

Operation = Callable[[Any], None]


def run_of(name: str = "episodes-2026-01-01T01:00Z", **more: Any) -> run_state.Run:
    return run_state.begin(EPISODES, name, by="m", **more)


def group(number: int, *ids: int, **more: Any) -> DocumentGroup:
    group_id = f"cover/r/{number}"
    return DocumentGroup(group_id, "r", f"job-{number}", {"itunes_image": "u"}, list(ids), attempt="a1", **more)


# The documents.


def five_stale_episodes(db: Any) -> None:
    db.episodes.insert_many([{"_id": i, "itunes_image": "u", "title": "t", "channel_id": 1} for i in range(1, 6)])
    db.episodes.insert_one({"_id": 6, "itunes_image": "u", "last_itunes_image": "u"})


def stale_documents_are_read_by_pages(db: Any) -> None:
    five_stale_episodes(db)
    first, after = documents.read(EPISODES, "r", [], 3)
    second, end = documents.read(EPISODES, "r", after, 3)
    assert ([each.id for each in first + second], after, end) == ([1, 2, 3, 4, 5], [3], [])


def stale_documents_are_counted(db: Any) -> None:
    five_stale_episodes(db)
    assert documents.count_stale(EPISODES) == 5


def stale_documents_are_claimed_by_one_run(db: Any) -> None:
    five_stale_episodes(db)
    first, _ = documents.read(EPISODES, "r", [], 3)
    assert [each.id for each in documents.claim(EPISODES, "r", first)] == [1, 2, 3]
    assert documents.claim(EPISODES, "other", first) == []
    assert {each["lock"]["run"] for each in db.episodes.find({"_id": {"$in": [1, 2, 3]}})} == {"r"}


def a_page_is_read_by_windows(db: Any) -> None:
    db.episodes.insert_many([{"_id": i, "itunes_image": "u"} for i in range(1, 8)])
    found, reached = documents._read_by_windows(EPISODES, "r", [2], 10)
    assert ([each["_id"] for each in found], reached) == ([3, 4, 5, 6, 7], [])


def folders_are_the_titles_of_channels(db: Any) -> None:
    db.channels.insert_many([{"_id": 1, "title": "One"}, {"_id": "b", "title": "Two"}])
    db.episodes.insert_many([{"_id": i, "itunes_image": "u", "channel_id": c} for i, c in enumerate([1, "b", 3], 1)])
    found, _ = documents.read(EPISODES, "r", [], 9)
    assert list(documents.folders(EPISODES, found).values()) == ["ONE", "TWO", "CUSTOM"]


def a_result_is_written(db: Any) -> None:
    claimed = {"lock": {"until": NOW + timedelta(hours=1), "run": "r"}}
    db.episodes.insert_many([{"_id": 1, "itunes_image": "u", **claimed}, {"_id": 2, "itunes_image": "new", **claimed}])
    assert documents.write(EPISODES, "r", {"itunes_image": "u"}, STORED, [1, 2]) == Counter(done=1, changed=1)
    assert db.episodes.find_one({"_id": 1})["last_itunes_image"] == "u"
    assert [each.get("lock") for each in db.episodes.find({})] == [None, None]


def marks_are_listed(db: Any) -> None:
    db.channels.insert_many([{"_id": 1, "title": "a", "metadata": MARKED}, {"_id": 2, "image_url": "u"}])
    assert [(each.id, each.code) for each in marks.list_marks(CHANNELS, 9)] == [("1", "timeout")]


def marks_are_counted_and_cleared(db: Any) -> None:
    db.channels.insert_many([{"_id": 1, "title": "a", "metadata": MARKED}, {"_id": 2, "image_url": "u"}])
    query = documents.marked("timeout", NOW - timedelta(days=7))
    assert documents.count_marks(CHANNELS, query) == {"timeout": 1}
    assert documents.clear_marks(CHANNELS, query) == 1
    assert db.channels.find_one({"_id": 1})["metadata"] == {}


# The runs and groups.


def a_run_begins_once_and_is_found(db: Any) -> None:
    at = datetime(2026, 1, 1, 1, tzinfo=UTC)
    run = run_of(scheduled_for=at)
    assert run_of(limit=3).limit is None
    assert (loaded := run_state.load(run.id))
    assert (loaded.id, loaded.collection, loaded.limit) == (run.id, "episodes", None)
    assert run_state.load("none") is None
    assert [each.id for each in run_state.latest(EPISODES, 5)] == [run.id]
    assert run_state.latest(CHANNELS, 5) == []
    assert run_state.last_scheduled(EPISODES) == at
    assert run_state.last_scheduled(CHANNELS) is None


def a_run_advances_once_per_page_and_stops(db: Any) -> None:
    run = run_of()
    assert run_state.attempt(run, "a1")
    assert run_state.advance(run, [7], by="m2", claimed=2, walked=False, attempt="a1")
    assert not run_state.advance(run, [7], by="m3", claimed=2, walked=False, attempt="a2")
    run_state.count(run.id, Counter(done=2))
    run_state.count(run.id, Counter(done=1, failed=1))
    found = run_state.load(run.id)
    assert found
    assert (found.page, found.after, found.claimed, found.attempts) == (1, [7], 2, [])
    assert found.counts == {"done": 3, "failed": 1}
    assert (run_state.stop(run.id), run_state.stop(run.id)) == (True, False)


def documents_join_groups_until_there_is_an_outcome(db: Any) -> None:
    run_state.join([group(1, 1), group(2, 5)], 0)
    run_state.join([group(1, 2)], 1)
    read = run_state.find_group("cover/r/1")
    assert read
    assert read.documents == [1, 2]
    assert not run_state.settle(replace(read, documents=[1]), STORED)
    assert run_state.settle(read, STORED, ended=False)
    (joined,) = run_state.join([group(1, 3)], 2)
    assert joined.outcome == STORED
    assert len(run_state.find_group("cover/r/1").documents) == 2  # type: ignore[union-attr]


def jobs_under_way_are_counted(db: Any) -> None:
    run_state.join([group(1, 1), group(2, 2), group(3, 3)], 0)
    run = run_state.Run("r", "episodes", attempts=["a1"])
    assert run_state.under_way(run) == 0
    run_state.handed_over([group(1), group(2)])
    assert run_state.under_way(run) == 2
    run_state.ended("cover/r/1")
    assert run_state.under_way(run) == 1


def indexes_are_created_and_listed(db: Any) -> None:
    run_of()
    for by, options, _ in indexes.missing(run_state.COLLECTION, run_state.INDEXES):
        indexes.create(run_state.COLLECTION, by, options)
    assert indexes.missing(run_state.COLLECTION, run_state.INDEXES) == []


OPERATIONS: list[Operation] = [
    stale_documents_are_read_by_pages,
    stale_documents_are_counted,
    stale_documents_are_claimed_by_one_run,
    a_page_is_read_by_windows,
    folders_are_the_titles_of_channels,
    a_result_is_written,
    marks_are_listed,
    marks_are_counted_and_cleared,
    a_run_begins_once_and_is_found,
    a_run_advances_once_per_page_and_stops,
    documents_join_groups_until_there_is_an_outcome,
    jobs_under_way_are_counted,
    indexes_are_created_and_listed,
    *RECHECK_OPERATIONS,
]


@contextmanager
def database_at(url: str) -> Iterator[Any]:
    """Let the service use a new database of a server; yield it."""
    url = f"{url}operations_{secrets.token_hex(4)}"
    with pytest.MonkeyPatch.context() as patch, MongoClient[dict[str, Any]](url, tz_aware=True) as client:
        patch.setenv("MONGO_URL", url)
        lazy.forget()
        try:
            yield client.get_default_database()
        finally:
            lazy.forget()


def server_url(stack: EmbeddedStack) -> str:
    return stack.environ["MONGO_URL"].rpartition("/")[0] + "/"


@pytest.fixture(autouse=True)
def _small_windows(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "WINDOW", 2)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_an_operation_works_on_the_server(stack: EmbeddedStack, operation: Operation) -> None:
    with database_at(server_url(stack)) as db:
        operation(db)


# Nothing is left out.


class Recorder(CommandListener):
    def __init__(self) -> None:
        self.commands: list[Mapping[str, Any]] = []

    def started(self, event: Any) -> None:
        if event.command_name in {"find", "aggregate", "update", "insert"}:
            self.commands.append(event.command)

    def succeeded(self, event: Any) -> None: ...

    def failed(self, event: Any) -> None: ...


@pytest.fixture
def recorded(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> tuple[Recorder, set[str]]:
    """All commands of all operations, and the functions of the sweeps that asked for a collection."""
    recorder, callers = Recorder(), set[str]()
    database = mongo.database

    def noting() -> Any:
        frame = sys._getframe(1)
        while frame.f_code.co_name.startswith("<") or frame.f_code.co_name == "_collection":
            assert frame.f_back
            frame = frame.f_back
        callers.add(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
        return database()

    monkeypatch.setattr(mongo, "MongoClient", partial(MongoClient, event_listeners=[recorder]))
    monkeypatch.setattr(mongo, "database", noting)
    for operation in OPERATIONS:
        with database_at(server_url(stack)) as db:
            operation(db)
    return recorder, callers


def functions_with_a_collection() -> set[str]:
    """Return the functions in the code of the sweeps that ask for a collection."""
    found = set()
    for path in SWEEPS.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and function.name != "_collection":
                calls = {ast.unparse(each.func) for each in ast.walk(function) if isinstance(each, ast.Call)}
                if calls & {"_collection", "mongo.database"}:
                    found.add(f"{path.stem}.{function.name}")
    return found


def operators_in(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return {key for key in value if key.startswith("$")} | {
            op for each in value.values() for op in operators_in(each)
        }
    return {op for each in value for op in operators_in(each)} if isinstance(value, list) else set()


def parts(command: Mapping[str, Any]) -> tuple[list[Any], set[str]]:
    """Return the parts of a command that have operators, and its options."""
    updates = command.get("updates", [])
    options = {"upsert" for each in updates if each.get("upsert")}
    options |= set(command) & {"hint", "min", "max", "sort", "skip", "limit", "batchSize", "maxTimeMS", "singleBatch"}
    return [command.get("filter", {}), command.get("pipeline", []), *([e["q"], e["u"]] for e in updates)], options


def shape(collection: str, query: Any, **options: Any) -> str:
    """Return a query without its values. Whatever else it asks, one with a single `_id` has one plan."""
    if isinstance(query, Mapping) and not isinstance(query.get("_id", {}), Mapping):
        return f"{collection} by _id"
    used = sorted(name for name, value in options.items() if value)
    return f"{collection} {without_values(query)} {used}"


def without_values(query: Any) -> Any:
    if isinstance(query, Mapping):
        return {re.sub(r"\.\d+$", ".N", name): without_values(each) for name, each in sorted(query.items())}
    if isinstance(query, list) and any(isinstance(each, Mapping) for each in query):
        return [without_values(each) for each in query]
    return "?"


def shapes(command: Mapping[str, Any]) -> set[str]:
    name = next(iter(command))
    collection, options = command[name], {key: command.get(key) for key in ("hint", "min", "max", "sort", "skip")}
    if name == "find":
        return {shape(collection, command.get("filter", {}), **options)}
    if name == "aggregate":
        return {shape(collection, command["pipeline"], hint=command.get("hint"))}
    return {shape(collection, each["q"]) for each in command.get("updates", [])}


def test_each_function_of_the_sweeps_that_uses_mongodb_has_an_operation(recorded: tuple[Recorder, set[str]]) -> None:
    assert functions_with_a_collection() == recorded[1] & functions_with_a_collection()


def test_each_operator_and_option_that_the_sweeps_send_has_a_rule(recorded: tuple[Recorder, set[str]]) -> None:
    used: set[str] = set()
    for command in recorded[0].commands:
        with_operators, options = parts(command)
        used |= options | {op for part in with_operators for op in operators_in(part)}
    assert used - KNOWN == set()


def test_each_query_that_the_sweeps_send_is_explained(recorded: tuple[Recorder, set[str]]) -> None:
    sent = {each for command in recorded[0].commands for each in shapes(command)}
    explained = {each for query in sweep_queries(NOW) for each in shapes(query.command)}
    assert sent - explained == set()
