"""A whole service in this process that re-checks the covers of a host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from dramatiq import Worker

import pipeline.actors  # builds the broker, on which the actors are declared
from pipeline.clients import lazy
from pipeline.events import subscribe, unsubscribe
from pipeline.net.host_limits import host_limiter
from pipeline.stages import STAGES, Lane
from pipeline.sweeps import sources
from tests.integration.conftest import SOON
from tests.support.cover_host import CoverHost, cover_host

EXTRA = "itunes_image_extra_images"

QUEUES = {"sweep_channels", "sweep_episodes", *(stage.queue(lane) for stage in STAGES for lane in Lane)}


@pytest.fixture
def host(database, monkeypatch) -> Iterator[CoverHost]:
    """A host of covers, and a worker of the whole service that re-checks once a week."""
    monkeypatch.setenv("ALLOWED_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("RECHECK_DAYS", "7")
    monkeypatch.setenv("RENDITIONS", "4x4,2x2")
    monkeypatch.setenv("FETCH_RETRY_DELAYS", "0.1")
    monkeypatch.setattr("pipeline.sweeps.sweep.PAUSE", 0)
    monkeypatch.setattr(sources, "_rests_until", 0.0)  # another test's MongoDB was down
    lazy.forget()
    host_limiter.cache_clear()
    worker = Worker(pipeline.actors.broker, queues=QUEUES, worker_threads=8, worker_timeout=SOON)
    worker.start()
    with cover_host() as host:
        yield host
    worker.stop()
    host_limiter.cache_clear()


@pytest.fixture
def attempts() -> Iterator[Counter[str]]:
    """Count the attempts of every stage."""
    found: Counter[str] = Counter()

    def count(event):
        found[event.stage] += 1

    subscribe(count)
    yield found
    unsubscribe(count)
