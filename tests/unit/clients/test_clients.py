"""Clients: one of each kind for all threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.clients import shared as clients


def test_threads_that_ask_first_at_once_share_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given that no thread has asked yet
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    clients.forget()
    together = threading.Barrier(8)

    def ask(_: int) -> int:
        together.wait()
        return id(clients.sqs())

    # When eight ask at once, then they have the same, until it is forgotten
    with ThreadPoolExecutor(8) as pool:
        asked = set(pool.map(ask, range(8)))
    assert asked == {id(clients.sqs())}
    before = clients.sqs()
    clients.forget()
    assert clients.sqs() is not before
    clients.forget()
