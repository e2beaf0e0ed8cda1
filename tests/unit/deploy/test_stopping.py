"""Each supervisor allows a stopping process the time that it needs to release what its polls bring."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from deploy.ecs.render import task_definition
from pipeline.sqs.consumer import CLOSE_TIMEOUT, POLL_MARGIN
from pipeline.sqs.queues import LONG_POLL
from pipeline.worker import ingest
from tests.unit.deploy.processes import ROOT, commands

#: Seconds of an idle process that was asked to stop while its polls were out, and of the interpreter's own end.
NEEDED = max(LONG_POLL + POLL_MARGIN + CLOSE_TIMEOUT, ingest.CLOSE_TIMEOUT) + 2


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def graces() -> dict[str, float]:
    """Return the seconds between SIGTERM and SIGKILL, by file and process."""
    pod: Any = yaml.safe_load(read("deploy/kubernetes/process.yml"))["spec"]["template"]["spec"]
    found = {"kubernetes": float(pod["terminationGracePeriodSeconds"])}
    for process in commands():
        (container,) = task_definition(process)["containerDefinitions"]
        found[f"ecs {process}"] = float(container["stopTimeout"])
        service = yaml.safe_load(read("compose.yaml"))["services"][process]
        found[f"compose {process}"] = float(service["stop_grace_period"].removesuffix("s"))
    (unit,) = re.findall(r"^TimeoutStopSec=(\d+)$", read("docs/systemd/process.service"), re.MULTILINE)
    return found | {"systemd": float(unit)}


@pytest.mark.parametrize(("place", "grace"), graces().items())
def test_an_idle_process_ends_before_it_is_killed(place: str, grace: float) -> None:
    assert grace >= NEEDED, place


def test_no_deployment_overrides_the_grace_that_all_share() -> None:
    assert "terminationGracePeriodSeconds" not in read("deploy/kubernetes/deployments.yml")
    assert len(re.findall("stop_grace_period", read("compose.yaml"))) == 1
