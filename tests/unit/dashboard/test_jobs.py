"""The page of a job: its steps, its pictures and their details."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.dashboard.views import jobs
from pipeline.events import Outcome
from pipeline.images.details.facts import WARNINGS
from pipeline.monitoring.job_log.reader import Attempt, HistorySource, JobHistory, JobStatus

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


pytestmark = pytest.mark.usefixtures("no_variables")


def tried(stage: str, outcome: Outcome, second: float, **more: Any) -> Attempt:
    return Attempt(stage, outcome, NOW + timedelta(seconds=second), 0.5, **more)


def history(status: JobStatus, stage: str, *attempts: Attempt, **more: Any) -> JobHistory:
    sources = more.pop("sources", (HistorySource("example.org/cover.jpg", ("image_url",)),))
    return JobHistory(
        "a-job", status, stage, NOW, NOW + timedelta(seconds=4), "SHOW", "live", sources=sources, attempts=attempts
    )


def states(view: jobs.JobView) -> list[str]:
    return [step.state for step in view.steps]


def test_a_jobs_steps_follow_its_attempts() -> None:
    done, retry, up = Outcome.DONE, Outcome.RETRY, Outcome.GIVEN_UP
    fetched = tried("fetch", done, 1)
    expected: list[tuple[JobHistory, list[str]]] = [
        (history("under_way", "fetch"), ["now", "todo", "todo", "todo"]),
        (history("under_way", "fetch", tried("fetch", retry, 1, wait=10.0)), ["retry", "todo", "todo", "todo"]),
        (history("under_way", "resize", fetched), ["done", "now", "todo", "todo"]),
        (history("under_way", "notify", fetched), ["done", "todo", "todo", "now"]),
        (history("done", "notify", fetched, tried("notify", done, 2)), ["done", "skipped", "skipped", "done"]),
        (history("failed", "fetch", tried("fetch", up, 1), tried("notify", done, 2)),
         ["failed", "skipped", "skipped", "done"]),
        (history("done", "notify", tried("fetch", up, 1), tried("notify", done, 2), tried("fetch", done, 8, redrive=1),
               tried("resize", done, 9), tried("upload", done, 10), tried("notify", done, 11)), ["done"] * 4),
        (history("rejected", "ingest", tried("ingest", Outcome.REJECTED, 1), sources=()), ["skipped"] * 4),
    ]  # fmt: skip
    for observed, wanted in expected:
        assert states(jobs.of_history(observed)) == wanted, observed


def test_a_job_shows_why_it_failed_and_how_long_it_took() -> None:
    error = {"stage": "fetch", "code": "http_404", "message": "It answered 404."}
    failed = jobs.of_history(
        history("failed", "fetch", sources=(HistorySource("example.org/a", ("image_url",), error=error),))
    )
    assert (failed.why, failed.seconds, failed.words) == ("It answered 404.", 4.0, "failed")
    retry = tried("fetch", Outcome.RETRY, 1, code="timeout", message="It did not answer.", wait=10.0)
    trying = jobs.of_history(history("under_way", "fetch", retry))
    assert (trying.why, trying.seconds) == ("It did not answer.", None)
    assert trying.attempts[0].words == "tries again in 10 s"
    assert trying.attempts[0].why == "timeout: It did not answer."


def test_the_thumbnail_is_the_rendition_nearest_to_250_pixels() -> None:
    urls = {name: f"https://cdn.example.org/{name}" for name in ("800x800", "50x50", "250X250")}
    view = jobs.of_history(history("done", "notify", sources=(HistorySource("example.org/a", ("image_url",), urls),)))
    assert view.thumbnail == "/thumbnails/a-job/0/250X250"
    assert [each.name for each in view.sources[0].renditions] == ["50x50", "250X250", "800x800"]


FACTS = {
    "width": 3001,
    "height": 2000,
    "bytes": 1_675_455,
    "format": "jpeg",
    "sha256": "0" * 64,
    "color": "#606055",
    "thumbhash": "V/gNHwZ5dohwiHd6iGh5iHaJdgaXV3+G",
    "warnings": ["not_square", "above_3000", "wrong_content_type"],
}


def test_details_are_shown_as_words_and_a_placeholder() -> None:
    urls = {"50x50": "https://cdn.example.org/a"}
    logged = HistorySource("example.org/a", ("image_url",), urls, facts=FACTS)
    (view,) = jobs.of_history(history("done", "notify", sources=(logged,))).sources
    assert view.facts == "3001 × 2000 JPEG, 1,675 kB"  # noqa: RUF001
    assert view.warnings == ("not square", "above 3000 pixels", "wrong Content-Type")
    assert view.placeholder == "/placeholders/V_gNHwZ5dohwiHd6iGh5iHaJdgaXV3-G"
    # A transparent picture has no placeholder, because it would show through
    transparent = replace(logged, facts=FACTS | {"warnings": ["has_alpha"]})
    (view,) = jobs.of_history(history("done", "notify", sources=(transparent,))).sources
    assert (view.warnings, view.placeholder) == (("has alpha",), "")
    # But without details there are none
    for other in ({}, {"width": "<b>"}):
        (view,) = jobs.of_history(history("done", "notify", sources=(replace(logged, facts=other),))).sources
        assert (view.facts, view.warnings, view.placeholder) == ("", (), "")


def test_every_warning_has_words() -> None:
    assert tuple(jobs.WARNING_WORDS) == WARNINGS


def test_only_web_addresses_become_links() -> None:
    urls = {"50x50": "javascript:alert(1)", "250X250": "data:text/html,x", "800x800": "https://cdn.example.org/a"}
    view = jobs.of_history(history("done", "notify", sources=(HistorySource("example.org/a", ("image_url",), urls),)))
    assert [each.link for each in view.sources[0].renditions] == ["", "", "https://cdn.example.org/a"]


def test_a_snoozed_job_waits_for_a_slot_and_has_not_failed() -> None:
    snoozed = [tried("fetch", Outcome.SNOOZED, second, code="host_busy", wait=2.0) for second in range(3)]
    view = jobs.of_history(history("under_way", "fetch", *snoozed))
    assert view.waits is not None
    assert view.waits.reason == "fetch waits for a slot (host_busy)"
    assert (view.why, states(view)[0]) == ("", "wait")
    assert [attempt.words for attempt in view.attempts] == ["waits for a slot, 3 times in 2 s"]


def test_a_failed_job_shows_the_failures_of_its_latest_redrive() -> None:
    gone = tried("fetch", Outcome.GIVEN_UP, 1, code="http_404", message="It answered 404.")
    blocked = tried("fetch", Outcome.GIVEN_UP, 2, code="blocked_address", message="It is private.", redrive=1)
    assert jobs.of_history(history("failed", "fetch", gone)).failures == (gone,)
    assert jobs.of_history(replace(history("failed", "fetch", gone, blocked), redrives=1)).failures == (blocked,)
