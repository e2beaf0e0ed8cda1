"""Failures by cause: the dead letters of one stage and code together, with what the job log adds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.monitoring.job_log.reader import FailureGroup
from pipeline.ops.dead_letters.letter import DeadLetter

#: Dead letters, and hosts, of one cause that are shown.
LETTERS, HOSTS = 20, 6


@dataclass(frozen=True)
class LetterView:
    """One dead letter in a list."""

    id: str
    name: str  #: its image's host and path, or what it is instead
    job_id: str
    message: str
    queue: str
    attempts: int
    last_at: datetime


@dataclass(frozen=True)
class Cause:
    """What failed in one stage with one code."""

    stage: str
    code: str
    count: int  #: dead letters
    sendable: int  #: those of them that a redrive would send
    message: str  #: the latest one's sentence
    obstacle: str  #: why a redrive leaves some; empty where it leaves none
    last_at: datetime
    hosts: tuple[str, ...]  #: the most frequent first
    letters: tuple[LetterView, ...]
    recent: int  #: failures with this cause in the last day, by the job log

    @property
    def key(self) -> str:
        """Its name in the page's address."""
        return key_of(self.stage, self.code)


@dataclass(frozen=True)
class Past:
    """What failed in the last day, and has no dead letter any more."""

    stage: str
    code: str
    count: int
    message: str
    at: datetime
    job_ids: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its name in the page's address."""
        return key_of(self.stage, self.code)


def key_of(stage: str, code: str) -> str:
    """A cause's name in the page's address."""
    return re.sub(r"[^a-z0-9]+", "-", f"{stage}-{code}".lower()).strip("-")


def group(letters: Sequence[DeadLetter], failures: Sequence[FailureGroup] = ()) -> list[Cause]:
    """The letters by cause, the most frequent first. `letters` has the latest first."""
    groups: dict[tuple[str, str], list[DeadLetter]] = {}
    for letter in letters:
        groups.setdefault((letter.stage, letter.code), []).append(letter)
    recent = {(failure.stage, failure.code): failure.count for failure in failures}
    causes = [_cause(members, recent.get(cause, 0)) for cause, members in groups.items()]
    return sorted(causes, key=lambda cause: (-cause.count, cause.key))


def past(causes: Sequence[Cause], failures: Sequence[FailureGroup]) -> list[Past]:
    """The failures of the last day that are none of `causes`."""
    present = {(cause.stage, cause.code) for cause in causes}
    return [
        Past(each.stage, each.code, each.count, each.message, each.at, each.job_ids)
        for each in failures
        if (each.stage, each.code) not in present
    ]


def _cause(letters: Sequence[DeadLetter], recent: int) -> Cause:
    latest = letters[0]
    hosts = Counter(host for letter in letters for host in letter.hosts)
    return Cause(
        stage=latest.stage,
        code=latest.code,
        count=len(letters),
        sendable=sum(not letter.obstacle for letter in letters),
        message=latest.message,
        obstacle=next((letter.obstacle for letter in letters if letter.obstacle), ""),
        last_at=latest.last_at,
        hosts=tuple(host if count == 1 else f"{host} ({count})" for host, count in hosts.most_common(HOSTS)),
        letters=tuple(map(_letter, letters[:LETTERS])),
        recent=recent,
    )


def _letter(letter: DeadLetter) -> LetterView:
    return LetterView(
        id=letter.id,
        name=" and ".join(letter.urls) or "a refused message",
        job_id=letter.job_id,
        message=letter.message,
        queue=letter.queue,
        attempts=letter.attempts,
        last_at=letter.last_at,
    )
