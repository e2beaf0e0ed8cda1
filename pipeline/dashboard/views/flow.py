"""The stages for the overview: waiting and dead messages, and throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.dashboard.polling import DepthHistory
from pipeline.dashboard.views.charts import Sparkline, bars, sparkline
from pipeline.events import Outcome
from pipeline.monitoring.job_log.reader import Minute, per_minute
from pipeline.monitoring.queue_depths import DEAD, INGEST, Depth, StageCounts, counts_of
from pipeline.stages import GIANTS, QUARANTINE, RESIZE, STAGES

#: A description of each stage for people.
DESCRIPTIONS = {
    INGEST: "Turns messages from the input queue into jobs",
    "fetch": "Downloads the source",
    "resize": "Renders every size",
    "upload": "Puts the renditions into the bucket",
    "notify": "Delivers the results",
}

#: Time range of the charts in minutes, and number of points of the depth chart.
DEPTH_MINUTES, DEPTH_PARTS = 10, 60
RATE_MINUTES = 30


@dataclass(frozen=True)
class StageCard:
    """One stage."""

    counts: StageCounts
    does: str
    known: bool  #: whether its queues are known
    depth: Sparkline
    most: int = 0  #: most messages that waited in the time range of the chart
    rate: Sparkline | None = None  #: None without a job log
    per_minute: str = ""
    stalled: str = ""  #: why its messages wait and are not taken; empty if they are

    @property
    def title(self) -> str:
        """The name of the stage as a heading."""
        return self.counts.stage.capitalize()


def waiting_by_stage(depths: Sequence[Depth]) -> dict[str, int]:
    """Count the waiting messages of each stage and of quarantine, as entries of the history."""
    counted: dict[str, int] = {}
    for depth in depths:
        if depth.lane != DEAD:
            counted[depth.consumer] = counted.get(depth.consumer, 0) + depth.waiting
    return counted


def cards(
    depths: Sequence[Depth],
    history: DepthHistory,
    minutes: Sequence[Minute] | None,
    now: datetime,
    stalled: Mapping[str, str] | None = None,
) -> list[StageCard]:
    """Make a card for ingest and each stage, in the order of a job.

    Args:
        depths: The queues.
        history: The waiting messages of the last minutes.
        minutes: The attempts of the last minutes; None without a job log.
        now: The current time.
        stalled: Sentences about stages whose messages are not taken.
    """
    speeds = per_minute(minutes, now) if minutes is not None else {}
    found = []
    for name in (INGEST, *(stage.name for stage in STAGES)):
        past = history.of(name, buckets=DEPTH_PARTS, seconds=DEPTH_MINUTES * 60)
        most = max((value for value in past if value is not None), default=0)
        has_rate = minutes is not None and name != INGEST  # ingest logs only rejected messages
        counts = counts_of(name, depths)
        card = StageCard(
            counts=counts,
            does=DESCRIPTIONS[name],
            known=any(depth.stage == name and depth.lane not in {DEAD, QUARANTINE} for depth in depths),
            depth=sparkline(past, f"waiting in the last {DEPTH_MINUTES} minutes: at most {most}"),
            most=most,
            rate=_rate(name, minutes or (), now) if has_rate else None,
            per_minute=_short(speeds.get(name, 0.0)) if has_rate else "",
            stalled=_stall(name, stalled or {}, in_quarantine=counts.quarantine > 0),
        )
        found.append(card)
    return found


def _stall(name: str, stalled: Mapping[str, str], *, in_quarantine: bool) -> str:
    """Return why messages of a stage, those of giants and in quarantine included, wait and are not taken."""
    giants = stalled.get(GIANTS) if name == RESIZE.name else None
    quarantine = stalled.get(QUARANTINE) if in_quarantine else None
    others = {"Giants": giants, "Quarantine": quarantine}
    return " ".join(filter(None, [stalled.get(name), *(f"{who}: {why}" for who, why in others.items() if why)]))


def _short(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 10 or not speed else f"{speed:.1f}"


def _rate(name: str, minutes: Sequence[Minute], now: datetime) -> Sparkline:
    this_minute = now.replace(second=0, microsecond=0)
    by_minute = {minute.at: minute.count(name, Outcome.DONE) for minute in minutes}
    counts = [by_minute.get(this_minute - timedelta(minutes=back), 0) for back in reversed(range(RATE_MINUTES))]
    return bars(
        counts, f"done in each of the last {RATE_MINUTES} minutes: {sum(counts)} together, at most {max(counts)}"
    )
