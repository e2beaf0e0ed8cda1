"""Findings of checks."""

from __future__ import annotations

from typing import Any

from pipeline.ops.checks.model import CheckStatus, Context, Row
from pipeline.ops.checks.run import CHECKS, Finding
from pipeline.settings import Settings


def rows(check: str, **settings: Any) -> list[Row]:
    """Return the findings of one check with these settings."""
    (found,) = [each for each in CHECKS if each.name == check and each.group in {"Settings", "This host", "SQS", "S3"}]
    return list(found.run(Context(Settings(**settings))))


def statuses(found: list[Row]) -> list[tuple[CheckStatus, str]]:
    """Return status and subject of each warning and failure."""
    return [(row.status, row.subject) for row in found if row.status in {CheckStatus.WARN, CheckStatus.FAIL}]


def bad(found: list[Finding]) -> list[tuple[str, str, str]]:
    """Return status, subject and sentences of the findings that are not good."""
    rows = [finding.row for finding in found]
    return [
        (row.status.value, row.subject, f"{row.message} {row.hint}") for row in rows if row.status in {"warn", "fail"}
    ]
