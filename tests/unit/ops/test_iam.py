"""The IAM policies: generated from one source, with the settings' names, and with no unneeded permission."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from honcho.environ import parse_procfile
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.ops.iam import ANY_INPUT_QUEUE, GRANTS, PROCESSES, REDIRECT_QUEUES, policy
from pipeline.ops.provision import queue_specs
from pipeline.settings import Settings
from pipeline.stages import DEAD_LETTER_QUEUES, QUARANTINE_QUEUES, STAGES, SWEEP_QUEUES, Stage

ROOT = Path(__file__).parents[3]


pytestmark = pytest.mark.usefixtures("no_variables")


def listed(resource: str | list[str]) -> list[str]:
    return [resource] if isinstance(resource, str) else resource


def resources(document: dict[str, Any], action: str = "") -> set[str]:
    """Return the resources of a policy, or those on which it allows an action."""
    statements = [each for each in document["Statement"] if action in {"", *each["Action"]}]
    return {name for each in statements for name in listed(each["Resource"])}


def queues(document: dict[str, Any], action: str) -> set[str]:
    """Return the queues on which a policy allows an action, without the namespace."""
    found = resources(document, f"sqs:{action}")
    return {arn.rpartition(":")[2].removeprefix("image-pipeline_") for arn in found}


def test_each_process_has_a_policy_which_the_deployment_guide_lists() -> None:
    processes = parse_procfile((ROOT / "Procfile").read_text(encoding="utf-8")).processes
    assert set(processes) - {"giants"} == set(PROCESSES), "giants has the role of resize"
    assert set(GRANTS) == {*PROCESSES, "provision", "producer", "operator", "dashboard"}
    section = (ROOT / "docs/deploying.md").read_text(encoding="utf-8").split("\n### IAM policies\n")[1]
    first_cells = re.findall(r"^\|(.*?)\|", section.split("\n#")[0], re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall("`(.*?)`", cell)} == set(GRANTS)


@pytest.mark.parametrize("process", GRANTS)
def test_a_policy_names_existing_queues_and_places(process: str) -> None:
    settings, bucket = Settings(), "arn:aws:s3:::images-ch"
    theirs = {ANY_INPUT_QUEUE, *REDIRECT_QUEUES, "*", "image-pipeline_*", "image-pipeline_submit_*"}
    known = {spec.name for spec in queue_specs(settings)} | theirs
    places = {bucket, f"{bucket}/images-resized/*", f"{bucket}/pipeline-staging/*"}
    document = policy(process, settings)
    for statement in document["Statement"]:
        assert statement["Effect"] == "Allow"
        assert all(re.fullmatch(r"(sqs|s3):[A-Z][A-Za-z]+", action) for action in statement["Action"])
    for resource in resources(document):
        assert resource.rpartition(":")[2] in known if ":sqs:" in resource else resource in places, resource


def test_an_operator_may_redrive_every_dead_letter_and_receive_nothing_else() -> None:
    document = policy("operator", Settings())
    dead = set(DEAD_LETTER_QUEUES.values())
    alive = {*(queue for stage in STAGES for queue in stage.queues), *SWEEP_QUEUES, ANY_INPUT_QUEUE}
    for action in ("ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility"):
        assert queues(document, action) == dead
    assert queues(document, "SendMessage") == alive
    assert queues(document, "GetQueueAttributes") == alive | dead | set(QUARANTINE_QUEUES.values())


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_may_receive_from_its_queues_alone(stage: Stage) -> None:
    document = policy(stage.name, Settings())
    for action in ("ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility"):
        assert queues(document, action) == set(stage.queues)
    assert queues(document, "GetQueueUrl") >= set(stage.queues)


def test_producers_send_to_no_queue_of_sweeps() -> None:
    # The pages of sweeps carry no proof, because only the service may send them.
    sending = {queue for grant in GRANTS["producer"] if "sqs:SendMessage" in grant.actions for queue in grant.queues}
    assert sending == {"fetch"}


def test_the_settings_names_are_used() -> None:
    settings = Settings(
        aws_region="cn-north-1",
        queue_namespace="covers",
        s3_bucket="pictures",
        s3_prefix="made",
        staging_url="s3://scratch/waiting/",
        queue_url="https://sqs.cn-north-1.amazonaws.com.cn/000011112222/Input",
    )
    named = resources(policy("ingest", settings)) | resources(policy("upload", settings))
    assert named >= {
        "arn:aws-cn:sqs:cn-north-1:000011112222:Input",
        "arn:aws-cn:sqs:cn-north-1:000011112222:covers_upload_bulk",
        "arn:aws-cn:s3:::pictures/made/*",
        "arn:aws-cn:s3:::scratch/waiting/*",
    }
    assert resources(policy("provision", settings)) >= {"arn:aws-cn:s3:::scratch", "arn:aws-cn:s3:::pictures"}


def test_only_the_keys_of_staging_may_be_listed() -> None:
    settings = Settings(staging_url="s3://scratch/waiting/")
    (listing,) = [each for each in policy("resize", settings)["Statement"] if "s3:ListBucket" in each["Action"]]
    assert listing["Resource"] == "arn:aws:s3:::scratch"
    assert listing["Condition"] == {"StringLike": {"s3:prefix": "waiting/*"}}


def test_notify_may_send_to_the_listed_redirect_queues_alone() -> None:
    settings = Settings(redirect_queues="Channel*,Episodes.fifo")
    (redirect,) = [each for each in policy("notify", settings)["Statement"] if each["Sid"] == "Redirect"]
    names = {arn.rpartition(":")[2] for arn in redirect["Resource"]}
    assert names == {"Channel*", "Episodes.fifo", "image-pipeline_submit_*"}


def test_unused_grants_are_left_out() -> None:
    settings = Settings(staging_url="file:///var/tmp/staging/", s3_acl="none")
    text = json.dumps(policy("upload", settings))
    assert "s3:PutObjectAcl" not in text
    assert "taging" not in text
    assert "Lifecycle" not in json.dumps(policy("provision", settings))


def test_the_account_of_another_endpoint_is_ignored() -> None:
    settings = Settings(queue_url="http://127.0.0.1:4566/queues/input")
    assert "arn:aws:sqs:us-east-2:123456789012:input" in resources(policy("ingest", settings))


def test_the_command_prints_json_and_lists_placeholders_on_stderr() -> None:
    one = CliRunner().invoke(app, ["check", "--iam", "notify"])
    every = CliRunner().invoke(app, ["check", "--iam"])
    assert json.loads(one.stdout) == policy("notify", Settings())
    assert json.loads(every.stdout) == {name: policy(name, Settings()) for name in GRANTS}
    assert "Replace the account 123456789012" in one.stderr
    assert "ChannelImages" in one.stderr


def test_an_unknown_process_is_refused() -> None:
    result = CliRunner().invoke(app, ["check", "--iam", "fetcher"])
    assert result.exit_code == 2
    assert "'fetcher' is not one of fetch" in result.stderr
