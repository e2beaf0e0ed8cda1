"""The data types of the checks: a check, the rows it yields, and the context it runs in."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from pipeline.ops.iam import GRANTS, PROCESSES, Grant, Location
from pipeline.settings import Settings
from pipeline.stages import own_queues


class CheckStatus(StrEnum):
    """The result of one row."""

    OK = "ok"
    SKIP = "skip"  #: not checked, or the feature is off; the message gives the reason
    WARN = "warn"  #: the service works, but not well
    FAIL = "fail"  #: a part of the service does not work


@dataclass(frozen=True)
class Row:
    """One finding. The message states it and the hint how to fix it, in full sentences without markup."""

    status: CheckStatus
    subject: str
    message: str
    hint: str = ""


def is_local(settings: Settings) -> bool:
    """Return whether SQS is an emulator on this machine."""
    host = urlsplit(settings.sqs_endpoint or "").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def ok(subject: str, message: str) -> Row:
    return Row(CheckStatus.OK, subject, message)


def skip(subject: str, message: str, hint: str = "") -> Row:
    return Row(CheckStatus.SKIP, subject, message, hint)


def warn(subject: str, message: str, hint: str) -> Row:
    return Row(CheckStatus.WARN, subject, message, hint)


def fail(subject: str, message: str, hint: str) -> Row:
    return Row(CheckStatus.FAIL, subject, message, hint)


@dataclass(frozen=True)
class Context:
    """The settings to check, for one process or for all processes of the Procfile."""

    settings: Settings
    process: str | None = None
    skews: dict[str, float] = field(default_factory=dict)  #: seconds that this clock is ahead, by service

    @property
    def processes(self) -> frozenset[str]:
        """The processes whose needs are checked."""
        return frozenset([self.process] if self.process else PROCESSES)

    @property
    def grants(self) -> list[Grant]:
        """All permissions that the processes need."""
        return [grant for process in sorted(self.processes) for grant in GRANTS[process]]

    def queues(self, action: str | None = None) -> list[str]:
        """Return the full names of the service's own queues that the processes need, or need `action` on."""
        patterns = [name for grant in self.grants if action in {None, *grant.actions} for name in grant.queues]
        names = [name for name in sorted(own_queues()) if any(fnmatchcase(name, pattern) for pattern in patterns)]
        return [self.settings.full_queue_name(name) for name in names]

    def takes_input(self, action: str) -> bool:
        """Return whether the processes need `action` on the input queue."""
        return any(grant.on_input and action in grant.actions for grant in self.grants)

    def actions_in(self, location: Location) -> frozenset[str]:
        """Return the actions that the processes need in a location of S3."""
        return frozenset(action for grant in self.grants if grant.location is location for action in grant.actions)

    def denied(self, subject: str, actions: Iterable[str], where: str) -> Row:
        """Return the failure of a request without permission, with the command that prints the needed ones."""
        command = f"image-pipeline check --iam {self.process or ''}".rstrip()
        message = f"These credentials do not permit {' and '.join(actions)} {where}."
        return fail(subject, message, f"Allow it; `{command}` prints the policy.")


@dataclass(frozen=True)
class Check:
    """One check, as data.

    Attributes:
        group: The heading that it is shown under.
        name: Its name within the group.
        run: Yields the rows.
        processes: The processes that need it.
        opens: Whether the rest of the group is skipped if every row of this check is a failure.
    """

    group: str
    name: str
    run: Callable[[Context], Iterable[Row]]
    processes: frozenset[str] = frozenset(GRANTS)
    opens: bool = False
