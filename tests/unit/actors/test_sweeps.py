"""The arguments of a sweep's messages: each is checked before MongoDB is asked."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest

import pipeline.actors  # noqa: F401 - builds the broker, on which the actors are declared
from actors import sweeps
from pipeline.clients import lazy, mongo
from pipeline.errors import Rejected
from pipeline.sqs.leases import Lease
from pipeline.sqs.settlement import Bury, SQSMessage
from pipeline.sweeps import run_state, sweep
from pipeline.worker.failures import Failed, Failures
from pipeline.worker.messages import attempt_at
from pipeline.worker.retry import RetryPolicy

RUN = "channels-2026-11-24T01:00Z"


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONGO_URL", "mongodb://127.0.0.1:9/db")
    lazy.forget()
    yield
    lazy.forget()


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The pages that were taken. MongoDB is not asked."""
    taken: list[tuple[Any, ...]] = []

    def refuse() -> Any:
        raise AssertionError("MongoDB was asked")

    monkeypatch.setattr(mongo, "database", refuse)
    monkeypatch.setattr(sweep, "take_page", lambda _swept, run, page, **_: taken.append((run, page)))
    return taken


def received(*args: Any, options: dict[str, Any] | None = None, timestamp: int = 1, **kwargs: Any) -> SQSMessage:
    queue = "sweep_channels"
    message: dramatiq.Message[Any] = dramatiq.Message(queue, queue, args, kwargs, options or {}, "m", timestamp)
    return SQSMessage(message, Lease("id", "handle", 0.0), queue_name=queue, is_argument=True)


def run(message: SQSMessage) -> None:
    sweeps.sweep_channels(*message.args, **message.kwargs)


@pytest.mark.parametrize(("arguments", "page"), [({"run": RUN, "page": 3}, 3), ({"run": "channels-manual-0a1b2c"}, 0)])
def test_a_page_of_a_run_is_taken(arguments: dict[str, Any], page: int, taken) -> None:
    run(received(**arguments))
    assert taken == [(arguments["run"], page)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"run": {"$gt": ""}},
        {"run": ["channels-1"]},
        {"run": 1},
        {"run": ""},
        {"run": "episodes-2026-11-24T01:00Z"},
        {"run": "channels-\n"},
        {"run": "channels-" + "1" * 64},
        {"run": "cover/channels-1/0"},
        {"run": RUN, "page": -1},
        {"run": RUN, "page": 2**53},
        {"run": RUN, "page": True},
        {"run": RUN, "page": "0"},
        {"run": RUN, "page": 1.0},
        {"run": RUN, "page": {"$gt": 0}},
        {"run": RUN, "limit": 5},
    ],
)
def test_arguments_that_no_sweep_sends_are_refused_for_good(arguments: dict[str, Any], taken) -> None:
    # Given a message with arguments that a sweep does not send
    message = received(**arguments)
    # When it runs, then MongoDB is not asked,
    with pytest.raises(Rejected) as raised:
        run(message)
    assert taken == []
    # and it is a dead letter at once.
    settlement = Failures(RetryPolicy(), lambda _: pytest.fail("no job"), lambda _: pytest.fail("no job"))
    ending = settlement.decide(Failed(message, attempt_at(message), raised.value, 0.0, 0.0)).settlement.ending
    assert isinstance(ending, Bury)
    assert ending.reason.code == "bad_message"


@pytest.mark.parametrize("scheduled_at", [5, "", "yesterday", {"$gt": ""}, "9999-12-31T23:59:59-14:00"])
def test_a_scheduled_time_that_no_scheduler_sends_is_refused(scheduled_at: Any, monkeypatch) -> None:
    monkeypatch.setattr(run_state, "begin", lambda *_, **__: pytest.fail("a run was begun"))
    with pytest.raises(Rejected):
        run(received(options={"scheduled_at": scheduled_at}))
