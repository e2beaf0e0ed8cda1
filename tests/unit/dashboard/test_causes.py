"""Dead letters grouped by cause."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.dashboard.views import causes
from pipeline.monitoring.job_log.reader import FailureGroup
from pipeline.ops.dead_letters.actions import Survey
from pipeline.ops.dead_letters.dead_letter import DeadLetter

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


pytestmark = pytest.mark.usefixtures("no_variables")


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
