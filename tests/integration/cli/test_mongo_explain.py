"""`check --mongo-explain` on servers that explain, that do not or not in time, and without MongoDB."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo.errors import ExecutionTimeout
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.clients import lazy
from pipeline.ops import mongo_plans
from pipeline.sweeps import indexes, run_state
from pipeline.sweeps.documents import CHANNELS


def explained(*options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check", "--mongo-explain", *options])
    return done.exit_code, done.output


def as_json() -> dict[tuple[str, str], dict[str, Any]]:
    _, output = explained("--json")
    lines = [json.loads(line) for line in output.splitlines()]
    return {(line["collection"], line["purpose"]): line for line in lines}


def test_the_plan_and_the_documents_examined_are_shown(database) -> None:
    # Given eight documents, of which two are stale
    database.channels.insert_many([{"_id": i, "image_url": "u", "last_image_url": "u"} for i in range(6)])
    database.channels.insert_many([{"_id": i, "image_url": "new"} for i in (6, 7)])
    before = list(database.channels.find({}))
    # Then the plans of its queries are shown with the index they use and need,
    found = as_json()
    page = found["channels", "the first page"]
    assert (page["indexes"], page["needs"], page["served"]) == (["_id_"], "_id_", True)
    assert page["stages"][-1] == "IXSCAN"
    assert (page["examined"] >= 2, page["returned"]) == (True, 2)
    # a count that reads everything is not a fault,
    count = found["channels", "count what a run would pick"]
    assert (count["stages"], count["examined"], count["served"]) == (["COLLSCAN"], 8, True)
    # and nothing has changed.
    assert list(database.channels.find({})) == before


def test_a_missing_index_is_named_until_it_is_created(database) -> None:
    run_state.begin(CHANNELS, "run")
    missing = as_json()[run_state.COLLECTION, "count the jobs under way"]
    assert (missing["served"], missing["stages"]) == (False, None)
    assert "provision" in missing["problem"]
    for by, options, _ in indexes.missing(run_state.COLLECTION, run_state.INDEXES):
        indexes.create(run_state.COLLECTION, by, options)
    found = as_json()[run_state.COLLECTION, "count the jobs under way"]
    assert (found["served"], found["indexes"]) == (True, ["run_1"])


def test_a_query_that_no_index_serves_is_marked_and_is_a_failure(database) -> None:
    # Given a server that looks up an id and another field by reading everything, as the embedded one does
    database.channels.insert_one({"_id": 1})
    status, output = explained()
    (line,) = [line for line in output.splitlines() if "write a result" in line][:1]
    assert status == 1
    assert "!" in line
    assert "COLLSCAN" in line


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[dict[str, Any]], dict[str, Any]]], None]:
    """Let MongoDB answer each command by a function."""

    def answer(by: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        monkeypatch.setattr(mongo_plans.mongo, "reach", lambda: None)
        monkeypatch.setattr(mongo_plans.mongo, "database", lambda: SimpleNamespace(command=by))

    return answer


@pytest.mark.parametrize("answer", [{"ok": 1.0}, {"queryPlanner": {"winningPlan": [{"detail": "SCAN channels"}]}}])
def test_a_server_that_explains_nothing_is_no_failure(answering, answer: dict[str, Any]) -> None:
    answering(lambda command: answer)
    assert "no plan that could be read" in as_json()["channels", "the first page"]["problem"]
    assert explained()[0] == 0


def test_a_query_that_takes_too_long_is_planned_only(answering) -> None:
    # Given a database that does not finish a query in time, but plans it
    def slow(command: dict[str, Any]) -> dict[str, Any]:
        if command["verbosity"] == "executionStats":
            raise ExecutionTimeout("operation exceeded time limit", 50)
        return {"queryPlanner": {"winningPlan": {"stage": "COLLSCAN"}}}

    answering(slow)
    # Then the plan is shown without numbers.
    status, output = explained()
    assert status == 1
    assert "planned only" in output
    assert "examined" not in output


def test_without_mongodb_one_sentence_is_the_answer(environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGO_URL", "")
    lazy.forget()
    status, _ = explained()
    assert status != 0
