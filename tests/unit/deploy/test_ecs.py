"""The task definitions for ECS fit the model of its API and the Procfile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from tests.unit.deploy.processes import ROOT, SECRETS, commands

FOLDER = ROOT / "deploy/ecs"

VARIABLES = {"postback": {"POSTBACK_SECRET_KEY", "POSTBACK_SIGNING_SECRET"}, "mongo": {"MONGO_URL"}}

#: MiB of memory by units of CPU that Fargate offers, as far as they are used.
FARGATE = {"256": {"512", "1024", "2048"}, "512": {"1024", "2048"}, "1024": {"2048", "3072"}}


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def problems(service: str, shape: str, value: Any) -> str:
    """Return the differences between a value and a shape of a service's API."""
    model = ServiceModel(Loader().load_service_model(service, "service-2"))
    return str(ParamValidator().validate(value, model.shape_for(shape)).generate_report())


@pytest.mark.parametrize("process", commands())
def test_a_task_definition_fits_the_api(process: str) -> None:
    assert problems("ecs", "RegisterTaskDefinitionRequest", load(process)) == ""


def test_a_wrong_field_does_not_fit() -> None:
    task = load("fetch")
    task["containerDefinitions"][0]["readOnlyRootFilesystem"] = True
    assert "Unknown parameter" in problems("ecs", "RegisterTaskDefinitionRequest", task)


def test_the_scaling_policy_fits_the_api() -> None:
    shape = "TargetTrackingScalingPolicyConfiguration"
    assert problems("application-autoscaling", shape, load("resize-scaling")) == ""


def test_there_is_a_task_definition_for_each_process() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {*commands(), "resize-scaling"}
    for process, command in commands().items():
        (container,) = load(process)["containerDefinitions"]
        assert (container["name"], container["command"]) == (process, command)


def test_the_tasks_differ_only_in_command_size_role_and_secrets() -> None:
    shared = []
    for process in commands():
        task = load(process)
        assert task.pop("family") == f"image-pipeline-{process}"
        role = "resize" if process == "giants" else process
        assert task.pop("taskRoleArn").endswith(f":role/image-pipeline-{role}")
        assert task.pop("memory") in FARGATE[task.pop("cpu")]
        (container,) = task["containerDefinitions"]
        expected = {"JOB_KEY", "JOBS_MONGO_URL"}.union(*(VARIABLES[secret] for secret in SECRETS.get(process, set())))
        assert {each["name"] for each in container.pop("secrets")} == expected
        assert container["logConfiguration"]["options"].pop("awslogs-stream-prefix") == process
        del container["name"], container["command"]
        shared.append(task)
    assert all(task == shared[0] for task in shared)
    (container,) = shared[0]["containerDefinitions"]
    assert (container["user"], container["readonlyRootFilesystem"]) == ("65534:65534", True)
    assert container["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
    assert "/livez" in container["healthCheck"]["command"][-1]
