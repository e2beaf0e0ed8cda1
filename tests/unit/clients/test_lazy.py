"""Functions whose result is created once per process."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from pipeline.clients import lazy
from pipeline.clients.lazy import Lazy


@pytest.fixture(autouse=True)
def _not_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "_all", [])


def test_threads_that_call_at_the_same_time_share_one_result_per_argument() -> None:
    # Given a function that all threads call before it has returned
    made, threads = [], threading.Barrier(8)

    @Lazy
    def client(name: str) -> object:
        made.append(name)
        time.sleep(0.05)  # the other threads call meanwhile; if they are late, the test passes nevertheless
        return object()

    def call(name: str) -> object:
        threads.wait(10)
        return client(name)

    # When eight threads ask for one of two clients
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, ["a", "b"] * 4))
    # Then each was made once.
    assert sorted(made) == ["a", "b"]
    assert len(set(results)) == 2


def test_forgotten_clients_are_closed_and_made_again() -> None:
    closed = []

    @Lazy
    def client() -> SimpleNamespace:
        return SimpleNamespace(close=lambda: closed.append("closed"))

    first = client()
    lazy.forget()
    assert closed == ["closed"]
    assert client() is not first
