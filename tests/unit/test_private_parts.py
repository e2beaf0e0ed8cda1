"""Parts of libraries that the code uses or overrides although they are not documented: each is where it was.

A failure here means: read the library's changes, adapt the code, and move the cap in pyproject.toml.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dramatiq.cli
import dramatiq_sqs.broker
import dramatiq_sqs.utils
import honcho.command
import periodiq
import pytest
from dramatiq.worker import Worker
from packaging.requirements import Requirement
from PIL import ImageFile
from requests.sessions import Session, SessionRedirectMixin
from urllib3.connection import HTTPConnection

PYPROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")

#: The private parts by package: a function of the library that uses them, and their names.
PARTS: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "dramatiq": [
        (Worker.stop, "consumers"),
        (Worker.stop, "workers"),
        (Worker._add_consumer, "work_queue"),
        (Worker._add_worker, "work_queue"),
        (dramatiq.cli.worker_process, "event"),
    ],
    "dramatiq-sqs": [
        (dramatiq_sqs.SQSBroker.declare_queue, "queue_names"),
        (dramatiq_sqs.SQSBroker.get_declared_queues, "queue_names"),
        *((dramatiq_sqs.SQSBroker.join, name) for name in ("queues", "load", "attributes")),
        (dramatiq_sqs.broker.SQSConsumer.requeue, "batched"),
    ],
    "Pillow": [(ImageFile.ImageFile.load, "tile"), (ImageFile.ImageFile.load, "decodermaxblock")],
    "requests": [(Session.send, "resolve_redirects"), (SessionRedirectMixin.rebuild_auth, "should_strip_auth")],
    "periodiq": [(periodiq.Scheduler.schedule, "validate"), (periodiq.Scheduler.schedule, "next_valid_date")],
    "honcho": [
        (honcho.command.command_start, "environ"),
        (honcho.command.command_start, "expand_processes"),
        (honcho.environ.Env.load_procfile, "parse_procfile"),
    ],
    "urllib3": [(HTTPConnection.connect, "_new_conn"), (HTTPConnection._new_conn, "_dns_host")],
}


@pytest.mark.parametrize(
    ("user", "name"),
    [part for parts in PARTS.values() for part in parts],
    ids=lambda each: getattr(each, "__qualname__", each),
)
def test_the_library_still_uses_the_part(user: Callable[..., Any], name: str) -> None:
    code = inspect.unwrap(user).__code__
    inner = [each.co_names for each in code.co_consts if inspect.iscode(each)]
    assert name in {*code.co_names, *code.co_varnames, *(each for names in inner for each in names)}


def test_the_process_of_a_worker_reports_its_boot_by_its_last_argument() -> None:
    assert list(inspect.signature(dramatiq.cli.worker_process).parameters)[-1] == "event"


def test_every_capped_library_names_its_parts() -> None:
    """A cap below the next major release, or below any other of 0.x, has a reason beside it that this table checks."""
    named = {}
    for text, comment in re.findall(
        r'^  "(.+?)",? *# (.*)$', PYPROJECT.partition("[dependency-groups]")[0], re.MULTILINE
    ):
        requirement = Requirement(text)
        if "<" in str(requirement.specifier) and "0.x" not in comment:
            named[requirement.name] = set(re.findall(r"`(?:\w+\.)?(\w+)`", comment))
    assert {name: parts for name, parts in named.items() if parts} == {
        package: {name for _, name in parts} for package, parts in PARTS.items()
    }
    listed = {Requirement(text).name for text in tomllib.loads(PYPROJECT)["project"]["dependencies"]}
    assert set(PARTS) <= listed
