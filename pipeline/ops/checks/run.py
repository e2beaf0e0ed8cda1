"""Runs all checks, those of each service in their order, and the services side by side.

Each check is data (`pipeline.ops.checks.model.Check`), defined in the module of its service.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby

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
    """Run the checks that `process` needs, or all, and yield the findings of each group once they are known.

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
    *needed, clock = [check for check in CHECKS if check.processes & context.processes]
    groups = [list(checks) for _, checks in groupby(needed, key=lambda check: check.group)]
    with ThreadPoolExecutor(len(groups)) as pool:  # so that the total is the time of the slowest service
        for found in pool.map(partial(_of_group, context), groups):
            yield from found
    yield from _of_group(context, [clock])  # it is compared with the answers above


def _of_group(context: Context, checks: list[Check]) -> list[Finding]:
    """Run the checks of one group in their order, until a check fails that the others need."""
    found = []
    for check in checks:
        rows = list(check.run(context))
        found += [Finding(check.group, check.name, row) for row in rows]
        if check.opens and rows and all(row.status == CheckStatus.FAIL for row in rows):
            found.append(Finding(check.group, check.name, skip("the rest", "Skipped because of the line above.")))
            break
    return found
