"""Clients: one of each kind for all threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.clients import aws, lazy


def test_concurrent_first_calls_share_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given that no thread has asked yet
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    lazy.forget()
    together = threading.Barrier(8)

    def ask(_: int) -> int:
        together.wait()
        return id(aws.sqs())

    # When eight threads ask at once, then they get the same client, until it is forgotten
    with ThreadPoolExecutor(8) as pool:
        asked = set(pool.map(ask, range(8)))
    assert asked == {id(aws.sqs())}
    before = aws.sqs()
    lazy.forget()
    assert aws.sqs() is not before
    lazy.forget()
