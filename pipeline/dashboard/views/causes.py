"""Groups failures by cause: the dead letters with the same stage and code, and their count in the job log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pipeline.monitoring.job_log.reader import Attempt, FailureGroup
from pipeline.ops.dead_letters.actions import Survey
from pipeline.ops.dead_letters.dead_letter import DeadLetter

#: Maximum number of dead letters and of hosts to show per cause.
LETTERS, HOSTS = 20, 6


@dataclass(frozen=True)
class Cause:
    """The failures of one stage with one code."""

    stage: str
    code: str
    count: int  #: number of dead letters, at least
    is_exact: bool  #: whether there are no more
    is_counted: bool  #: whether the number can be acted on; otherwise the page has read only some of the dead letters
    sendable: int  #: number of dead letters that a redrive would send
    newest: float  #: arrival of the newest that is counted, in Unix seconds
    message: str  #: the message of the latest
    obstacle: str  #: why a redrive leaves some; empty if it sends all
    last_at: datetime
    hosts: tuple[str, ...]  #: most frequent first
    letters: Sequence[DeadLetter]  #: the latest
    recent: int  #: failures of the last day, from the job log


def anchor(failure: Cause | FailureGroup | Attempt) -> str:
    """Return the anchor of the cause of a failure on the page of failures."""
    return re.sub(r"[^a-z0-9]+", "-", f"{failure.stage}-{failure.code}".lower()).strip("-")


def group(
    read: Survey, failures: Sequence[FailureGroup] = (), counted: Mapping[tuple[str, str], Survey] | None = None
) -> list[Cause]:
    """Group dead letters by cause; return the most frequent cause first.

    Args:
        read: The dead letters that the page has read, perhaps not all.
        failures: The failures of the last day.
        counted: Causes by stage and code whose dead letters were counted on their own.
    """
    groups: dict[tuple[str, str], list[DeadLetter]] = {}
    for letter in read.latest:
        groups.setdefault((letter.stage, letter.code), []).append(letter)
    recent = {(failure.stage, failure.code): failure.count for failure in failures}
    causes = [_cause(members, recent.get(cause, 0), read.is_exact) for cause, members in groups.items()]
    causes = [_counted(cause, (counted or {}).get((cause.stage, cause.code))) for cause in causes]
    return sorted(causes, key=lambda cause: (-cause.count, anchor(cause)))


def _counted(cause: Cause, count: Survey | None) -> Cause:
    if count is None or cause.is_exact:
        return cause
    return replace(
        cause,
        count=count.total,
        is_exact=count.is_exact,
        is_counted=True,
        sendable=count.sendable,
        newest=count.newest,
        obstacle=next((obstacle for *_, obstacle in count.groups if obstacle), ""),
    )


def past(causes: Sequence[Cause], failures: Sequence[FailureGroup]) -> list[FailureGroup]:
    """Return the failures of the last day that are not among `causes`, because their dead letters are gone."""
    present = {(cause.stage, cause.code) for cause in causes}
    return [each for each in failures if (each.stage, each.code) not in present]


def _cause(letters: Sequence[DeadLetter], recent: int, is_exact: bool) -> Cause:
    latest = letters[0]
    hosts = Counter(host for letter in letters for host in letter.hosts)
    return Cause(
        stage=latest.stage,
        code=latest.code,
        count=len(letters),
        is_exact=is_exact,
        is_counted=is_exact,
        newest=max(letter.sent_at for letter in letters),
        sendable=sum(not letter.obstacle for letter in letters),
        message=latest.message,
        obstacle=next((letter.obstacle for letter in letters if letter.obstacle), ""),
        last_at=latest.last_at,
        hosts=tuple(host if count == 1 else f"{host} ({count})" for host, count in hosts.most_common(HOSTS)),
        letters=letters[:LETTERS],
        recent=recent,
    )
