"""Jobs that a filter would drop."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.monitoring.orders import Drop
from pipeline.monitoring.queue_depths import Depth
from pipeline.ops import drops

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def job(stage: str, folder: str, *urls: str) -> Any:
    sources = [SimpleNamespace(url=url) for url in urls]
    return SimpleNamespace(stage=stage, folder=folder, sources=sources, began=NOW - timedelta(hours=1))


def test_a_job_in_fetch_counts_once_if_one_of_its_sources_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [
        job("fetch", "A", "cdn.example/1", "cdn.example/2"),
        job("fetch", "A", "other.example/1"),
        job("fetch", "B", "cdn.example/1"),
        job("resize", "A", "cdn.example/1"),
    ]
    monkeypatch.setattr(drops, "under_way", lambda before: jobs if before == NOW else [])
    assert drops.known(Drop("A", "cdn.example", NOW, silent=False, ends=NOW)) == 1
    assert drops.known(Drop("", "cdn.example", NOW, silent=False, ends=NOW)) == 2


def test_dead_letters_and_other_stages_do_not_wait_for_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    depths = [
        Depth("f", "fetch", "live", 1, 20, 300),
        Depth("b", "fetch", "bulk", 4000, 0, 0),
        Depth("d", "fetch", "dead", 50_000, 0, 0),
        Depth("r", "resize", "live", 600_000, 0, 0),
    ]
    monkeypatch.setattr(drops, "depths", lambda: depths)
    assert drops.waiting() == 4301
