"""Connections that are recorded instead of made, and a clock that tests move."""

from __future__ import annotations

import pytest
import urllib3

from tests.support.limiter import Clock


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
def clock() -> Clock:
    return Clock()
