"""Connections that are recorded instead of made, and a clock that tests move."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import urllib3

from pipeline.clients import lazy
from tests.support.moved_clock import MovedClock
from tests.support.untrusted_servers import settings


@pytest.fixture
def loopback_is_allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.1/32", FETCH_TIMEOUT="2", FETCH_TOTAL_TIMEOUT="5")
    yield
    lazy.forget()


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the addresses that connections are tried to; none is made."""
    tried: list[str] = []

    def create_connection(address: tuple[str, int], *args: object, **options: object) -> None:
        tried.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(urllib3.util.connection, "create_connection", create_connection)
    return tried


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()
