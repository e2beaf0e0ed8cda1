"""Every query and update of the sweeps uses listed operators alone."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.clients import mongo
from pipeline.events import RecheckOutcome
from pipeline.sweeps import documents, indexes, marks, run_state, sources
from pipeline.sweeps.documents import CHANNELS, EPISODES, RECHECK, WriteBack
from pipeline.sweeps.run_state import DocumentGroup
from pipeline.sweeps.sources import SourceCheck
from tests.support.mongo_commands import Commands, recorded

SWEEPS = Path(documents.__file__).parent
NOW = datetime.now(UTC)
STORED: WriteBack = {"stored": {"itunes_image": {"50x50": {"url": "u"}}}, "errors": {}, "given_up": False}


def use_documents(db: Any) -> None:
    db.channels.insert_one({"_id": 1, "title": "One", "metadata": {"error": True, "error_detail": {"code": "timeout"}}})
    db.episodes.insert_many([{"_id": i, "itunes_image": "u", "channel_id": 1} for i in range(1, 6)])
    found, after = documents.read(EPISODES, "r", [], 3)
    documents.read(EPISODES, "r", after, 3)
    documents.count_stale(EPISODES)
    documents.claim(EPISODES, "r", found)
    documents.claim(EPISODES, "other", found)
    documents.folders(EPISODES, found)
    documents.write(EPISODES, "r", {"itunes_image": "u"}, STORED, [1, 2])
    _, after = documents.read_settled(EPISODES, [], 3)
    documents.read_settled(EPISODES, after, 3)
    documents.replace_pictures(EPISODES, "itunes_image", "u", {"2x2": {"url": "u"}}, [1])
    documents.pictures(EPISODES, "itunes_image", 1)
    marks.list_marks(CHANNELS, 9)
    marked = documents.marked("timeout", NOW - timedelta(days=7))
    documents.count_marks(CHANNELS, marked)
    documents.clear_marks(CHANNELS, marked)


def use_runs() -> None:
    for by, options, _ in indexes.missing(run_state.COLLECTION, run_state.INDEXES):
        indexes.create(run_state.COLLECTION, by, options)
    run = run_state.begin(EPISODES, "episodes-2026-01-01T01:00Z", scheduled_for=NOW)
    run_state.begin(EPISODES, run.id)
    run_state.load(run.id)
    run_state.latest(EPISODES, 5)
    run_state.last_scheduled(EPISODES)
    run_state.attempt(run, "a1")
    run_state.advance(run, [7], by="m2", claimed=2, walked=False, attempt="a1")
    run_state.count(run.id, Counter(done=2))
    run_state.stop(run.id)
    group = DocumentGroup("cover/r/1", run.id, "job", {"itunes_image": "u"}, [1], attempt="a1")
    run_state.join([group], 0)
    run_state.join([replace(group, documents=[2])], 1)
    run_state.handed_over([group])
    run_state.under_way(run)
    if found := run_state.find_group(group.id):
        run_state.settle(found, STORED, ended=False)
    run_state.ended(group.id)


def use_sources() -> None:
    run = run_state.begin(RECHECK, "recheck-manual-1").id
    group = DocumentGroup(f"cover/{run}/1", run, "job", {"itunes_image": "u"})
    run_state.join_once([group])
    sources.record(SourceCheck("u", RecheckOutcome.SAME_BYTES, run=run, group=group.id))
    sources.record(SourceCheck("u", RecheckOutcome.FAILED, error="http_404"))
    sources.find("u")
    sources.find_all(["u"])
    sources.failing(0, 9)
    run_state.replaced(group.id, {}, 2)
    run_state.changed_covers(run, 9)
    run_state.find_changed(group.id)


@pytest.fixture
def sent(database: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Commands, set[str]]:
    """The commands of all operations, and the functions of the sweeps that asked for a collection."""
    commands, callers, real = recorded(monkeypatch), set[str](), mongo.database

    def noting() -> Any:
        frame = sys._getframe(1)
        while frame.f_code.co_name.startswith("<") or frame.f_code.co_name == "_collection":
            assert frame.f_back
            frame = frame.f_back
        callers.add(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
        return real()

    monkeypatch.setattr(mongo, "database", noting)
    monkeypatch.setattr(documents, "WINDOW", 2)
    use_documents(database)
    use_runs()
    use_sources()
    commands.sent = [each for each in commands.sent if next(iter(each)) in {"find", "aggregate", "update", "insert"}]
    return commands, callers


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
        inner = (op for each in value.values() for op in operators_in(each))
        return {key for key in value if key.startswith("$")}.union(inner)
    return {op for each in value for op in operators_in(each)} if isinstance(value, list) else set()


def test_every_query_and_update_uses_listed_operators(sent: tuple[Commands, set[str]]) -> None:
    # Given all commands that the sweeps send
    commands, callers = sent
    assert functions_with_a_collection() == callers & functions_with_a_collection()
    # Then their operators are those that documents.py lists.
    named = ("filter", "pipeline", "updates")
    used = {operator for command in commands.sent for name in named for operator in operators_in(command.get(name, []))}
    assert used == set(re.findall(r"`(\$\w+)`", documents.__doc__ or ""))
