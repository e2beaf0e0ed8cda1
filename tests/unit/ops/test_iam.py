"""The IAM policies: generated from one source, with the settings' names, and with no unneeded permission."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.ops.iam import GRANTS, PROCESSES, policy
from pipeline.settings import Settings

ROOT = Path(__file__).parents[3]


pytestmark = pytest.mark.usefixtures("no_variables")


def resources(document: dict[str, Any]) -> set[str]:
    listed = [statement["Resource"] for statement in document["Statement"]]
    return {name for each in listed for name in ([each] if isinstance(each, str) else each)}


@pytest.mark.parametrize("process", GRANTS)
def test_the_documents_contain_the_generated_policies(process: str) -> None:
    path = ROOT / f"docs/iam/{process}.json"
    assert path.read_text(encoding="utf-8") == json.dumps(policy(process, Settings()), indent=2) + "\n", "run: make iam"


def test_the_processes_of_the_procfile_have_grants() -> None:
    assert set(PROCESSES) < set(GRANTS)


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
