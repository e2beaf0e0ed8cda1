"""The task definitions for ECS fit the model of its API and the Procfile."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from deploy.ecs.render import task_definition
from tests.unit.deploy.processes import ROOT, SECRETS, commands

FOLDER = ROOT / "deploy/ecs"

VARIABLES = {"postback": {"POSTBACK_SECRET_KEY", "POSTBACK_SIGNING_SECRET"}, "mongo": {"MONGO_URL"}}

#: MiB of memory by units of CPU that Fargate offers, as far as they are used.
FARGATE = {"256": {"512", "1024", "2048"}, "512": {"1024", "2048"}, "1024": {"2048", "3072"}}


def problems(service: str, shape: str, value: Any) -> str:
    """Return the differences between a value and a shape of a service's API."""
    model = ServiceModel(Loader().load_service_model(service, "service-2"))
    return str(ParamValidator().validate(value, model.shape_for(shape)).generate_report())


@pytest.mark.parametrize("process", commands())
def test_a_task_definition_fits_the_api(process: str) -> None:
    assert problems("ecs", "RegisterTaskDefinitionRequest", task_definition(process)) == ""


def test_a_wrong_field_does_not_fit() -> None:
    task = task_definition("fetch")
    task["containerDefinitions"][0]["readOnlyRootFilesystem"] = True
    assert "Unknown parameter" in problems("ecs", "RegisterTaskDefinitionRequest", task)


def test_the_scaling_policy_fits_the_api() -> None:
    shape = "TargetTrackingScalingPolicyConfiguration"
    policy = json.loads((FOLDER / "resize-scaling.json").read_text(encoding="utf-8"))
    assert problems("application-autoscaling", shape, policy) == ""


def test_there_is_a_task_definition_for_each_process() -> None:
    tasks = json.loads((FOLDER / "tasks.json").read_text(encoding="utf-8"))
    assert set(tasks["processes"]) == set(commands())
    for process, command in commands().items():
        (container,) = task_definition(process)["containerDefinitions"]
        assert (container["name"], container["command"]) == (process, command)


def test_the_command_of_the_deployment_guide_prints_a_task_definition() -> None:
    guide = (ROOT / "docs/deploying.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python3 (deploy/ecs/.*) >", guide, re.MULTILINE)
    done = subprocess.run([sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == task_definition("fetch")


def test_each_task_has_its_size_its_role_and_its_secrets() -> None:
    for process in commands():
        task = task_definition(process)
        assert task["memory"] in FARGATE[task["cpu"]]
        role = "resize" if process == "giants" else process
        assert task["taskRoleArn"].endswith(f":role/image-pipeline-{role}")
        (container,) = task["containerDefinitions"]
        expected = {"JOB_KEY", "JOBS_MONGO_URL"}.union(*(VARIABLES[secret] for secret in SECRETS.get(process, set())))
        assert {each["name"] for each in container["secrets"]} == expected
        assert all(each["valueFrom"].endswith(f"/{each['name']}") for each in container["secrets"])


def test_every_task_is_hardened_and_probed() -> None:
    (container,) = task_definition("fetch")["containerDefinitions"]
    assert (container["user"], container["readonlyRootFilesystem"]) == ("65534:65534", True)
    assert container["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
    assert "/livez" in container["healthCheck"]["command"][-1]
