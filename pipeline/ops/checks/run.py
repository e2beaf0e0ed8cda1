"""Runs all checks in their order.

Each check is data (`pipeline.ops.checks.model.Check`), defined in the module of its service.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import SettingsError
from pipeline.ops.checks import mongo, queues, settings, storage, work
from pipeline.ops.checks.model import Check, CheckStatus, Context, Row, fail, skip
from pipeline.settings import get_settings

#: All checks, in the order in which they run.
CHECKS: tuple[Check, ...] = (
    *settings.CHECKS,
    *queues.CHECKS,
    *storage.CHECKS,
    *mongo.CHECKS,
    *work.CHECKS,
    *storage.HOST_CHECKS,
    *settings.HOST_CHECKS,
)


@dataclass(frozen=True)
class Finding:
    """A row and the check that yielded it."""

    group: str
    check: str
    row: Row


def findings(process: str | None = None) -> Iterator[Finding]:
    """Run the checks that `process` needs, or all, and yield each finding as soon as it is known.

    The checks change nothing except for two small objects in S3, which they delete again. If a variable has an invalid
    value, that is the only finding.
    """
    try:
        context = Context(get_settings(), process)
    except SettingsError as error:
        for sentence in error.args:
            name, _, message = str(sentence).partition(": ")
            row = fail(name, message or sentence, "Every process stops at its start until you fix it.")
            yield Finding("Settings", "variables", row)
        return
    closed: set[str] = set()
    for check in CHECKS:
        if not check.processes & context.processes or check.group in closed:
            continue
        statuses = []
        for row in check.run(context):
            statuses.append(row.status)
            yield Finding(check.group, check.name, row)
        if check.opens and statuses and set(statuses) == {CheckStatus.FAIL}:
            closed.add(check.group)
            message = "Skipped because of the line above."
            yield Finding(check.group, check.name, skip("the rest", message))
