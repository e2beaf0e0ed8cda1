"""Connections that are recorded instead of made, and a clock that tests move."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import urllib3

from pipeline.clients import lazy
from pipeline.net import bulkhead
from pipeline.net.host_limits import HostLimiter, Policy
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


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(bulkhead, "JITTER", (1.0, 1.0))
    yield
    lazy.forget()


@pytest.fixture
def host_limiter(clock: MovedClock) -> HostLimiter:
    return HostLimiter(Policy(4), clock)
