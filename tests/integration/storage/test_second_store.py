"""`provision`, `check` and public reading on SeaweedFS, which keeps policies, rules and signatures as S3 does."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import requests
from botocore.exceptions import ClientError
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.clients import aws, lazy
from pipeline.errors import RetryableError
from pipeline.job import Content
from pipeline.ops.checks.run import findings
from pipeline.ops.provision import LIFECYCLE_RULE, UnsupportedChange, plan
from pipeline.recipe import Recipe, parse_rendition
from pipeline.settings import get_settings
from pipeline.storage import publish
from pipeline.storage.staging import staging
from pipeline.storage.stores import NOT_IMPLEMENTED
from tests.support.refusing import Refusal, refusing

CONTENT = Content("ab" * 16, ".webp", Recipe((parse_rendition("50x50"),)))

#: What `check` finds in a store that is set up.
HEALTHY = [("answers", "ok"), ("renditions", "ok"), ("renditions", "ok"), ("staging", "ok"), ("expiry", "ok")]


@pytest.fixture(autouse=True)
def _without_acls(on_seaweedfs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, S3_ACL="none")


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    lazy.forget()


def provision() -> list[str]:
    """Make the changes to the store; return what was missing."""
    changes = [each for each in plan(get_settings(), create_bucket=True) if "queue" not in each.message]
    for change in changes:
        change.apply()
    return [change.message for change in changes]


def let_everyone_read(bucket: str, keys: str) -> None:
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/{keys}",
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    aws.s3().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def checked() -> list[tuple[str, str]]:
    return [(found.check, found.row.status.value) for found in findings("upload") if found.group == "S3"]


def trouble() -> list[tuple[str, str]]:
    rows = [found.row for found in findings("upload") if found.group == "S3"]
    return [(row.subject, f"{row.message} {row.hint}") for row in rows if row.status in {"warn", "fail"}]


@pytest.mark.parametrize("acl", ["none", "public-read"])
def test_provision_makes_bucket_and_rule_once(monkeypatch: pytest.MonkeyPatch, on_seaweedfs, acl: str) -> None:
    # Given a store without the bucket
    bucket = f"{on_seaweedfs['S3_BUCKET']}-new"
    set_variables(monkeypatch, S3_BUCKET=bucket, S3_ACL=acl)
    # When it is provisioned
    accepts = "" if acl == "none" else f", which accepts S3_ACL={acl}"
    assert provision()[0] == f"create bucket {bucket}{accepts}"
    # Then nothing is missing afterwards.
    assert provision() == []


def test_provision_keeps_the_rules_of_others(on_seaweedfs: dict[str, str]) -> None:
    # Given a bucket with a rule of someone else
    bucket = on_seaweedfs["S3_BUCKET"]
    other = {"ID": "other", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    aws.s3().put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [other]})  # type: ignore[list-item]
    # When it is provisioned, then it has both.
    provision()
    rules = aws.s3().get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert {rule["ID"]: (rule["Filter"]["Prefix"], rule["Expiration"]["Days"]) for rule in rules} == {
        "other": ("logs/", 3),
        LIFECYCLE_RULE: ("pipeline-staging/", 14),
    }


def test_a_store_that_is_set_up_is_all_green(on_seaweedfs: dict[str, str]) -> None:
    provision()
    let_everyone_read(on_seaweedfs["S3_BUCKET"], "images-resized/*")
    assert checked() == HEALTHY


def test_the_public_reads_renditions_by_the_urls_in_results_and_nothing_in_staging(on_seaweedfs) -> None:
    # Given a policy that lets everyone read renditions
    let_everyone_read(bucket := on_seaweedfs["S3_BUCKET"], "images-resized/*")
    # When a rendition is published and an object is staged
    publish.publish("FOLDER", CONTENT, {"50x50": b"small"})
    key = staging().put(b"private")
    # Then the first can be read without a signature, and the other cannot.
    response = requests.get(publish.image_info("FOLDER", CONTENT)["50x50"]["url"], timeout=10)
    assert (response.content, response.headers["Content-Type"]) == (b"small", "image/webp")
    staged = f"{on_seaweedfs['AWS_ENDPOINT_URL_S3']}/{bucket}/pipeline-staging/{key}"
    assert requests.get(staged, timeout=10).status_code == 403


@pytest.mark.parametrize("acl", ["none", "public-read"])
def test_check_reports_covers_that_nobody_can_read(monkeypatch: pytest.MonkeyPatch, acl: str) -> None:
    # Given a bucket without a policy, in a store that accepts ACLs and ignores them
    set_variables(monkeypatch, S3_ACL=acl)
    provision()
    # Then check reports that.
    ((subject, message),) = trouble()
    assert subject == "public URL"
    assert "gets 403: the covers are not public" in message


def test_check_reports_a_policy_that_opens_staging(on_seaweedfs: dict[str, str]) -> None:
    provision()
    let_everyone_read(on_seaweedfs["S3_BUCKET"], "*")
    ((subject, message),) = trouble()
    assert subject == "staging"
    assert "are publicly readable" in message


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("AWS_ACCESS_KEY_S3", "does not know the access key"),
        ("AWS_SECRET_KEY_S3", "the secret key does not match the access key"),
    ],
)
def test_wrong_credentials_are_named(monkeypatch: pytest.MonkeyPatch, variable: str, message: str) -> None:
    # Given a wrong key or a wrong secret
    set_variables(monkeypatch, **{variable: "wrong"})
    # Then check names it, and a job is retried.
    assert message in trouble()[0][1]
    with pytest.raises(RetryableError):
        publish.publish("FOLDER", CONTENT, {"50x50": b"small"})


def test_a_wrong_clock_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a clock that is an hour behind
    behind = datetime.now(UTC) - timedelta(hours=1)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda remove_tzinfo=True: behind.replace(tzinfo=None))
    # Then check reports that.
    assert "this host's clock is wrong" in trouble()[0][1]


def test_a_missing_bucket_is_named(monkeypatch: pytest.MonkeyPatch, on_seaweedfs: dict[str, str]) -> None:
    set_variables(monkeypatch, S3_BUCKET=f"{on_seaweedfs['S3_BUCKET']}-absent")
    assert "The bucket does not exist." in trouble()[0][1]
    with pytest.raises(ClientError, match="NoSuchBucket"):
        aws.s3().put_object(Bucket=get_settings().s3_bucket, Key="x", Body=b"")


@pytest.mark.parametrize("code", sorted(NOT_IMPLEMENTED - {"501", "405"}))
def test_a_store_without_rules_leaves_them_to_a_person(
    on_seaweedfs: dict[str, str], monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    # Given a store that implements neither reading nor writing lifecycle rules
    with refusing(
        on_seaweedfs["AWS_ENDPOINT_URL_S3"], lambda request: Refusal(501, code) if "lifecycle" in request.path else None
    ) as endpoint:
        set_variables(monkeypatch, AWS_ENDPOINT_URL_S3=endpoint)
        # Then provision reaches that change and names what a person must do,
        with pytest.raises(UnsupportedChange, match=r"pipeline-staging/ after 14 days by the store's own means"):
            provision()
        # the command goes on,
        done = CliRunner().invoke(app, ["provision"])
        assert done.exit_code == 0
        assert "by hand" in done.output
        assert "by the store's own means" in " ".join(done.output.split())
        # and check reports it.
        assert ("expiry", "warn") in checked()
