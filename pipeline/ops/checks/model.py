"""What the checks are made of: a check as data, the rows it yields, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from pipeline.ops.iam import GRANTS, PROCESSES, Grant, Place
from pipeline.settings import Settings
from pipeline.stages import own_queues


class CheckStatus(StrEnum):
    """How a row reads."""

    OK = "ok"
    SKIP = "skip"  #: not tried, or off; its sentence says why
    WARN = "warn"  #: the service works, but not as it should
    FAIL = "fail"  #: something does not work


@dataclass(frozen=True)
class Row:
    """One finding: of what, what is so, and what to do about it; whole sentences, without markup."""

    status: CheckStatus
    subject: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Context:
    """What is checked: the settings, for one process or for all of the Procfile's."""

    settings: Settings
    process: str | None = None
    skews: dict[str, float] = field(default_factory=dict)  #: seconds that this clock is ahead, by service as it told

    @property
    def processes(self) -> frozenset[str]:
        """The processes whose needs are tried."""
        return frozenset([self.process] if self.process else PROCESSES)

    @property
    def grants(self) -> list[Grant]:
        """Everything that they must be allowed."""
        return [grant for process in sorted(self.processes) for grant in GRANTS[process]]

    def queues(self, action: str | None = None) -> list[str]:
        """The service's own queues that they need, or need `action` on, by their full names."""
        patterns = [name for grant in self.grants if action in {None, *grant.actions} for name in grant.queues]
        names = [name for name in sorted(own_queues()) if any(fnmatchcase(name, pattern) for pattern in patterns)]
        return [f"{self.settings.queue_namespace}_{name}" for name in names]

    def takes_input(self, action: str) -> bool:
        """Whether they need `action` on the input queue."""
        return any(grant.on_input and action in grant.actions for grant in self.grants)

    def may(self, place: Place) -> frozenset[str]:
        """The actions they need in a place of S3."""
        return frozenset(action for grant in self.grants if grant.place is place for action in grant.actions)

    @property
    def policy(self) -> str:
        """The command that prints what must be allowed."""
        return f"image-pipeline check --iam {self.process or ''}".rstrip()


@dataclass(frozen=True)
class Check:
    """One thing that is tried.

    If every row of a check that `opens` its group is a failure, the rest of the group is not looked at.
    """

    group: str
    name: str
    tries: str  #: what is tried, for people
    look: Callable[[Context], Iterable[Row]]
    processes: frozenset[str] = frozenset(GRANTS)  #: those that it concerns
    opens: bool = False
