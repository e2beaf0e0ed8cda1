"""The dashboard's views of queue depths, job histories and dead letters: their words and charts."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.dashboard import thumbnails
from pipeline.dashboard.polling import DepthHistory
from pipeline.dashboard.redrives import Redrive, Redrives
from pipeline.dashboard.views import causes, filters, flow, jobs
from pipeline.dashboard.views.charts import HEIGHT, WIDTH, bars, sparkline
from pipeline.errors import RetryableError
from pipeline.events import Outcome
from pipeline.images.details.facts import WARNINGS
from pipeline.monitoring.job_log.reader import Attempt, FailureGroup, HistorySource, JobHistory, JobStatus, Minute
from pipeline.monitoring.queue_depths import Depth, StageCounts
from pipeline.ops.advice import is_permanent
from pipeline.ops.dead_letters.actions import Survey
from pipeline.ops.dead_letters.letter import DeadLetter
from tests.support.waiting import wait_for

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
CONTENT_ID = "c3f4bf4256853026cf94fa6df2b1c366"


pytestmark = pytest.mark.usefixtures("no_variables")


# Words.


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "just now"),
        (1, "just now"),
        (12, "12 s ago"),
        (180, "3 min ago"),
        (7200, "2 h ago"),
        (5 * 86400, "5 days ago"),
    ],
)
def test_how_long_ago(seconds: float, expected: str) -> None:
    assert filters.ago(NOW - timedelta(seconds=seconds), NOW) == expected


# Charts.


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]


def test_a_sparkline_runs_from_zero_at_the_bottom_to_its_maximum_at_the_top() -> None:
    drawn = points(sparkline([0, None, 50, 100], "").line)
    assert [x for x, _ in drawn] == pytest.approx([0, WIDTH / 3, WIDTH * 2 / 3, WIDTH], abs=0.1)
    ground, carried, half, top = (y for _, y in drawn)
    assert ground == carried > half > top
    assert half == pytest.approx((ground + top) / 2)
    assert all(0 <= y <= HEIGHT for _, y in drawn)


@pytest.mark.parametrize("values", [[], [1], [None, None], [None, 3, None]])
def test_too_few_points_are_not_drawn(values: list[float | None]) -> None:
    assert sparkline(values, "words") == sparkline([], "words")


def test_bars_are_proportional_and_never_invisible() -> None:
    heights = [-float(v) for v in re.findall(r"v(-?[\d.]+)", bars([0, 1, 1000, 500], "").area)]
    assert len(heights) == 3
    assert heights[0] == 1.0
    assert heights[1] == pytest.approx(2 * heights[2])
    assert bars([0, 0], "").area == ""


# The flow.


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


# Jobs.


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


# Pictures.


@pytest.mark.parametrize(
    "url",
    [
        f"https://s3.us-east-2.amazonaws.com/images-ch/images-resized/SHOW/{CONTENT_ID}_250X250.jpeg",
        f"https://cdn.example.org/images-resized/SHOW/{CONTENT_ID}_250X250.jpeg",
        f"https://cdn.example.org/covers/images-resized/SHOW/{CONTENT_ID}_250X250.jpeg?v=1",
    ],
)
def test_a_renditions_url_gives_its_key(url: str) -> None:
    assert thumbnails.key_of(url) == f"images-resized/SHOW/{CONTENT_ID}_250X250.jpeg"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://[",
        "https://cdn.example.org/",
        f"https://cdn.example.org/pipeline-staging/{CONTENT_ID}",
        f"https://cdn.example.org/other/SHOW/{CONTENT_ID}_250X250.jpeg",
        f"https://cdn.example.org/images-resized/{CONTENT_ID}_250X250.jpeg",
        f"https://cdn.example.org/images-resized/../pipeline-staging/{CONTENT_ID}_250X250.jpeg",
        f"https://cdn.example.org/images-resized/SHOW/../../{CONTENT_ID}_250X250.jpeg",
        f"https://cdn.example.org/images-resized/SHOW/{CONTENT_ID}_250X250.html",
        f"https://cdn.example.org/images-resized/SHOW/{CONTENT_ID}_250X250.jpeg%00.html",
        "https://cdn.example.org/images-resized/SHOW/secrets.json",
    ],
)
def test_other_urls_in_the_bucket_have_no_key(url: str) -> None:
    assert thumbnails.key_of(url) is None


# Failures.


def letter(
    number: int, code: str = "http_404", *, stage: str = "fetch", host: str = "example.org", **more: Any
) -> DeadLetter:
    at = NOW - timedelta(minutes=number)
    return DeadLetter(f"letter-{number}", f"{stage}_dlq", stage, code, f"sentence {number}", 1, at, at, at.timestamp(),
                      hosts=(host,), **more)  # fmt: skip


def read(letters: list[DeadLetter]) -> Survey:
    found = Survey()
    found.add(letters, keep=100)
    return found


def test_letters_with_the_same_stage_and_code_have_one_cause() -> None:
    letters = [letter(1), letter(2, "timeout"), letter(3, host="other.org"), letter(4), letter(5, stage="upload")]
    failures = [
        FailureGroup("fetch", "http_404", 9, NOW, "older", ()),
        FailureGroup("notify", "http_500", 2, NOW, "mended", ("job-1",)),
    ]
    found = causes.group(read(letters), failures)
    assert [(causes.anchor(cause), cause.count) for cause in found] == [
        ("fetch-http-404", 3), ("fetch-timeout", 1), ("upload-http-404", 1),
    ]  # fmt: skip
    first = found[0]
    assert (first.message, first.hosts, first.recent) == ("sentence 1", ("example.org (2)", "other.org"), 9)
    assert [each.code for each in causes.past(found, failures)] == ["http_500"]


def test_a_cause_shows_which_letters_a_redrive_would_leave() -> None:
    (cause,) = causes.group(read([letter(1), letter(2, obstacle="It would be refused again.")]))
    assert (cause.count, cause.sendable, cause.obstacle) == (2, 1, "It would be refused again.")


@pytest.mark.parametrize("code", ['"><script>', "../..", "", "ÄÖ"])
def test_a_causes_anchor_is_safe_in_a_url(code: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", causes.anchor(FailureGroup("fetch", code, 1, NOW, "", ())))


def test_one_redrive_runs_at_a_time_and_its_error_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a redrive that waits for the dead letters, which somebody else reads
    lock, ended = threading.Lock(), threading.Event()
    redrives = Redrives(lock, ended.set)

    def refused(*_: Any, **__: Any) -> None:
        raise RetryableError("sqs_error", "SQS said no.")

    monkeypatch.setattr("pipeline.dashboard.redrives.redrive", refused)
    with lock:
        assert redrives.start(Redrive("fetch", "http_404", total=3))
        # Then a second one does not start
        assert not redrives.start(Redrive("fetch", "timeout", total=1))
        assert redrives.shown
        assert redrives.shown.title == "Redriving http_404 in fetch …"
    # and the error is shown
    wait_for(ended.is_set)
    assert redrives.shown
    assert not redrives.busy
    assert redrives.shown.text == "0 dead letters sent. SQS said no."
    with pytest.raises(ValueError, match="not a stage"):
        redrives.start(Redrive("nowhere", "x"))


# The next attempt of a job.


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


@pytest.mark.parametrize(
    ("stage", "code", "permanent"),
    [
        *(("fetch", code, True) for code in ("http_404", "http_410", "broken_image", "too_large", "http_301")),
        *(("fetch", code, False) for code in ("timeout", "http_503", "http_429", "blocked_address", "internal_error")),
        ("notify", "http_404", False),
    ],
)
def test_only_failures_of_the_source_are_permanent(stage: str, code: str, permanent: bool) -> None:
    assert is_permanent(stage, code) is permanent


# Text.


def test_back_ticks_become_code_and_the_rest_stays_text() -> None:
    assert filters.code("Run `image-pipeline check <b>` `` now") == (
        "Run <code>image-pipeline check &lt;b&gt;</code> `` now"
    )


def test_a_future_time_is_counted_down() -> None:
    assert [filters.until(NOW + timedelta(seconds=each), NOW) for each in (-5, 0.5, 58, 7200)] == [
        "now", "now", "in 58 s", "in 2 h",
    ]  # fmt: skip
