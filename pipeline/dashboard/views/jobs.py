"""Jobs for the pages, from the job log."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any
from urllib.parse import quote, urlsplit

from pipeline.events import Outcome
from pipeline.monitoring.job_log.reader import FAILED, Attempt, HistorySource, JobHistory, JobStatus
from pipeline.monitoring.next_attempt import NextAttempt, next_attempt
from pipeline.stages import STAGES
from pipeline.text import format_duration

WORDS: dict[JobStatus, str] = {
    "under_way": "under way",
    "done": "done",
    "failed": "failed",
    "rejected": "rejected",
    "partly": "partly failed",
}

#: State and label of an attempt by its outcome.
ATTEMPTS: dict[Outcome, tuple[str, str]] = {
    Outcome.DONE: ("done", "done"),
    Outcome.SNOOZED: ("wait", "waits for a slot"),
    Outcome.RETRY: ("retry", "tries again"),
    Outcome.GIVEN_UP: ("failed", "gave up"),
    Outcome.REJECTED: ("failed", "rejected"),
}

#: The words for each warning about a source.
WARNING_WORDS: dict[str, str] = {
    "not_square": "not square",
    "below_1400": "below 1400 pixels",
    "above_3000": "above 3000 pixels",
    "has_alpha": "has alpha",
    "not_rgb": "not RGB",
    "animated": "animated",
    "wrong_content_type": "wrong Content-Type",
}

#: Preferred side of a thumbnail in pixels; the closest rendition is used.
THUMBNAIL = 250

#: Largest sides of renditions that are shown small and medium, in pixels.
SMALL, MEDIUM = 64, 150


@dataclass(frozen=True)
class StageProgress:
    """The progress of a job in one stage: `state` is done, now, wait, retry, failed, skipped or todo."""

    name: str
    state: str
    words: str


@dataclass(frozen=True)
class RenditionView:
    """One rendition: its path on this dashboard, and its public URL if that can be a link."""

    name: str
    picture: str
    link: str
    size: str  #: s, m or l


@dataclass(frozen=True)
class SourceView:
    """One image of a job."""

    name: str  #: host and path
    fields: tuple[str, ...]
    why: str  #: why it failed; empty if it did not
    renditions: tuple[RenditionView, ...]
    facts: str = ""  #: with details: its size and format, as words
    warnings: tuple[str, ...] = ()  #: with details: as words
    placeholder: str = ""  #: with details: the path of its placeholder on this dashboard


@dataclass(frozen=True)
class AttemptView:
    """One attempt in a job's history."""

    stage: str
    state: str
    words: str
    attempt: int
    seconds: float
    at: datetime
    why: str


@dataclass(frozen=True)
class JobView:
    """One job: its history, and what the pages show of it."""

    history: JobHistory
    name: str
    seconds: float | None  #: its total duration; None while it is under way
    sources: tuple[SourceView, ...]
    steps: tuple[StageProgress, ...]
    attempts: tuple[AttemptView, ...]
    why: str  #: why it failed, or why its last attempt did
    waits: NextAttempt | None  #: the attempt that it waits for
    failures: tuple[Attempt, ...]  #: those for good of its latest redrive
    thumbnail: str

    @property
    def id(self) -> str:
        """The id of the job."""
        return self.history.id

    @property
    def words(self) -> str:
        """The status as a label."""
        return WORDS[self.history.status]


def of_history(history: JobHistory) -> JobView:
    """Make the view of a job in the job log."""
    sources = tuple(_source(history.id, number, source) for number, source in enumerate(history.sources))
    ended = history.status != "under_way"
    failures = [attempt for attempt in history.attempts if attempt.outcome not in {Outcome.DONE, Outcome.SNOOZED}]
    why = ""
    if history.status != "done":
        why = next((source.why for source in sources if source.why), "") or (failures[-1].message if failures else "")
    return JobView(
        history=history,
        name=sources[0].name if sources else "a rejected message",
        seconds=(history.updated - history.began).total_seconds() if ended else None,
        sources=sources,
        steps=_steps(history),
        attempts=tuple(_attempt_views(history.attempts)),
        why=why,
        waits=next_attempt(history),
        failures=tuple(_failures(history)) if history.status in FAILED else (),
        thumbnail=next((found for source in sources if (found := _thumbnail(source))), ""),
    )


def _source(job_id: str, number: int, source: HistorySource) -> SourceView:
    why = source.error.get("message", "") if source.error else ""
    renditions = [
        RenditionView(name, _picture(job_id, number, name), _link(url), _size(name))
        for name, url in sorted(source.urls.items(), key=lambda item: _side(item[0]))
    ]
    return SourceView(source.url, source.fields, why, tuple(renditions), **_details(source.facts))


def _details(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a view with details. A producer's own field may have any form, and then shows nothing."""
    match facts:
        case {
            "width": int(width),
            "height": int(height),
            "bytes": int(size),
            "format": str(name),
            "thumbhash": str(thumbhash),
            "warnings": [*warnings],
        }:
            return {
                "facts": f"{width} × {height} {name.upper()}, {size / 1000:,.0f} kB",  # noqa: RUF001 - a multiplication sign
                "warnings": tuple(WARNING_WORDS[each] for each in warnings if each in WARNING_WORDS),
                # A transparent picture would show its placeholder for good.
                "placeholder": "" if "has_alpha" in warnings else _placeholder(thumbhash),
            }
    return {}


def _placeholder(thumbhash: str) -> str:
    return f"/placeholders/{quote(thumbhash.replace('+', '-').replace('/', '_'), safe='')}"


def _picture(job_id: str, number: int, name: str) -> str:
    return f"/thumbnails/{quote(job_id, safe='')}/{number}/{quote(name, safe='')}"


def _link(url: str) -> str:
    """Return the URL if it can be a link, otherwise an empty string."""
    try:
        return url if urlsplit(url).scheme in {"http", "https"} else ""
    except ValueError:
        return ""


def _side(name: str) -> int:
    """Return the longer side in a rendition's name, in pixels."""
    return max((int(side) for side in re.findall(r"\d{1,6}", name)), default=0)


def _size(name: str) -> str:
    return "s" if _side(name) <= SMALL else "m" if _side(name) <= MEDIUM else "l"


def _thumbnail(source: SourceView) -> str:
    nearest = min(source.renditions, key=lambda each: abs(_side(each.name) - THUMBNAIL), default=None)
    return nearest.picture if nearest else ""


def _steps(history: JobHistory) -> tuple[StageProgress, ...]:
    latest = {attempt.stage: attempt for attempt in history.attempts}
    last = max((place for place, stage in enumerate(STAGES) if stage.name in latest), default=-1)
    steps = []
    for place, stage in enumerate(STAGES):
        attempt = latest.get(stage.name)
        if attempt is not None:
            state, words = ATTEMPTS[attempt.outcome]
            label = format_duration(attempt.seconds) if state == "done" else words
        elif history.status == "under_way" and (stage.name == history.stage or (not history.stage and place == 0)):
            state, label = "now", "under way"
        elif place < last or history.status != "under_way":
            state, label = "skipped", "not needed" if place < last else ""
        else:
            state, label = "todo", ""
        steps.append(StageProgress(stage.name, state, label))
    return tuple(steps)


def _failures(history: JobHistory) -> Iterator[Attempt]:
    """Yield the failures for good of the latest redrive, each once."""
    seen = set()
    for attempt in history.attempts:
        gave_up = attempt.outcome in {Outcome.GIVEN_UP, Outcome.REJECTED}
        if gave_up and attempt.redrive == history.redrives and (attempt.stage, attempt.code) not in seen:
            seen.add((attempt.stage, attempt.code))
            yield attempt


def _attempt_views(attempts: Sequence[Attempt]) -> Iterator[AttemptView]:
    """Yield the attempts, with times that a job was snoozed one after the other as one."""
    for _, group in groupby(attempts, key=lambda each: (each.stage, each.outcome is Outcome.SNOOZED or each)):
        alike = list(group)
        yield _attempt_view(alike[-1], len(alike))


def _attempt_view(attempt: Attempt, times: int = 1) -> AttemptView:
    state, words = ATTEMPTS[attempt.outcome]
    if times > 1:
        words = f"{words}, {times} times"
    if attempt.wait:
        words = f"{words} in {format_duration(attempt.wait, whole=True)}"
    if attempt.redrive:
        words = f"{words}, redriven"
    if attempt.deliveries:
        words = f"{words} ({', '.join(attempt.deliveries)})"
    why = f"{attempt.code}: {attempt.message}" if attempt.code else attempt.message
    return AttemptView(attempt.stage, state, words, attempt.attempt, attempt.seconds, attempt.at, why)
