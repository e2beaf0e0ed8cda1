"""A dashboard with queues, and with MongoDB as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.clients import aws, lazy
from pipeline.ops.provision import plan
from pipeline.settings import get_settings


@pytest.fixture
def with_everything(database: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Provide queues, an input queue, a bucket, a sweep database and a job log; yields the database."""
    monkeypatch.setenv("JOBS_MONGO_URL", get_settings().mongo_url.get_secret_value())  # type: ignore[union-attr]
    _provision(monkeypatch)
    yield database
    lazy.forget()


@pytest.fixture
def queues_alone(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Provide queues and a bucket, but no job log or database."""
    _provision(monkeypatch)
    return environment


@pytest.fixture
def polled_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the dashboard read the queues and the dead letters every half second, not every five."""
    for name in ("QUEUES_INTERVAL", "LETTERS_INTERVAL"):
        monkeypatch.setattr(f"pipeline.dashboard.sources.{name}", 0.5)


def _provision(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy.forget()
    for change in plan(get_settings(), create_bucket=True):
        change.apply()
    made = aws.sqs().create_queue(QueueName=f"{get_settings().queue_namespace}_input")
    monkeypatch.setenv("QUEUE_URL", made["QueueUrl"])
    lazy.forget()
