"""The flow of messages through the stages."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.dashboard.polling import DepthHistory
from pipeline.dashboard.views import flow
from pipeline.monitoring.job_log.reader import Attempt, HistorySource, JobHistory, JobStatus, Minute
from pipeline.monitoring.queue_depths import Depth, StageCounts

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
pytestmark = pytest.mark.usefixtures("no_variables")


def test_the_flow_adds_up_both_lanes_and_separates_dead_letters() -> None:
    depths = [
        Depth("in", "ingest", "live", 3, 0, 0),
        Depth("f", "fetch", "live", 5, 2, 1),
        Depth("fb", "fetch", "bulk", 40, 1, 10),
        Depth("fd", "fetch", "dead", 6, 1, 0),
        Depth("n", "notify", "live", 0, 0, 9),
    ]
    minutes = [Minute(NOW.replace(second=0) - timedelta(minutes=2), {"fetch": {"done": 30, "retry": 4}})]
    ingest, fetch, resize, _, notify = flow.cards(depths, DepthHistory(), minutes, NOW)
    assert (ingest.counts.waiting, ingest.known, ingest.rate) == (3, True, None)
    assert fetch.counts == StageCounts("fetch", waiting=5, bulk=40, in_flight=3, delayed=11, dead=7, quarantine=0)
    assert fetch.per_minute == "5.5"  # In the last five and a half minutes.
    assert fetch.rate is not None
    assert "30 together, at most 30" in fetch.rate.label
    assert (resize.known, notify.counts.delayed) == (False, 9)
    assert flow.waiting_by_stage(depths) == {"ingest": 3, "fetch": 45, "notify": 0}


def test_messages_in_quarantine_are_counted_apart() -> None:
    depths = [Depth("f", "fetch", "live", 5, 2, 1), Depth("fq", "fetch", "quarantine", 3, 1, 0)]
    stalled = {"quarantine": "3 wait, none is in flight."}
    _, fetch, resize, *_ = flow.cards(depths, DepthHistory(), None, NOW, stalled)
    assert fetch.counts == StageCounts("fetch", waiting=5, bulk=0, in_flight=2, delayed=1, dead=0, quarantine=4)
    assert fetch.stalled == "Quarantine: 3 wait, none is in flight."
    assert (resize.counts.quarantine, resize.stalled) == (0, "")
    assert flow.waiting_by_stage(depths) == {"fetch": 5, "quarantine": 3}


def test_the_history_keeps_the_maximum_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    history = DepthHistory()
    for at, waiting in ((1001, 7), (1004, 3), (1025, 5), (1038, 1)):
        monkeypatch.setattr(time, "time", lambda at=at: at)
        history.add({"fetch": waiting})
    monkeypatch.setattr(time, "time", lambda: 1040)
    assert history.of("fetch", buckets=4, seconds=40) == [7, None, 5, 1]
    assert history.of("resize", buckets=4, seconds=40) == [None] * 4


def history(status: JobStatus, stage: str, *attempts: Attempt, **more: Any) -> JobHistory:
    sources = more.pop("sources", (HistorySource("example.org/cover.jpg", ("image_url",)),))
    return JobHistory(
        "a-job", status, stage, NOW, NOW + timedelta(seconds=4), "SHOW", "live", sources=sources, attempts=attempts
    )
