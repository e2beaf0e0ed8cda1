"""`image-pipeline check`: every check in its order, and what comes of them.

Each check is data (`pipeline.ops.checks.model.Check`); what it tries is in the module of its subject.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import SettingsError
from pipeline.ops.checks import mongo as check_database
from pipeline.ops.checks import queues as check_queues
from pipeline.ops.checks import settings as check_settings
from pipeline.ops.checks import storage as check_objects
from pipeline.ops.checks.model import Check, CheckStatus, Context, Row
from pipeline.settings import get_settings

#: All, in the order they are made.
CHECKS: tuple[Check, ...] = (
    *check_settings.CHECKS,
    *check_queues.CHECKS,
    *check_objects.CHECKS,
    *check_database.CHECKS,
    *check_objects.HOST_CHECKS,
    *check_settings.HOST_CHECKS,
)


@dataclass(frozen=True)
class Finding:
    """A row, and the check it comes from."""

    group: str
    check: str
    row: Row


def findings(process: str | None = None) -> Iterator[Finding]:
    """Make the checks that concern `process`, or all; yields what each finds as soon as it is known.

    Nothing is changed but two small objects in S3, which are deleted again. A variable with a wrong value is the only
    finding then.
    """
    try:
        context = Context(get_settings(), process)
    except SettingsError as error:
        for sentence in error.args:
            name, _, message = str(sentence).partition(": ")
            row = Row(
                CheckStatus.FAIL, name, message or sentence, "Every process stops at its start until it is mended."
            )
            yield Finding("Settings", "variables", row)
        return
    closed: set[str] = set()
    for check in CHECKS:
        if not check.processes & context.processes or check.group in closed:
            continue
        statuses = []
        for row in check.look(context):
            statuses.append(row.status)
            yield Finding(check.group, check.name, row)
        if check.opens and statuses and set(statuses) == {CheckStatus.FAIL}:
            closed.add(check.group)
            message = "Not looked at, because of the line above."
            yield Finding(check.group, check.name, Row(CheckStatus.SKIP, "the rest", message))
