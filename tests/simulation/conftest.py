"""Keeps the brokers of simulated processes apart from the broker that other tests of this process share."""

from __future__ import annotations

import pytest

from pipeline.worker import registry


@pytest.fixture(autouse=True)
def simulated_brokers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ours", [])
