"""Checks that need no server: settings, this machine, and the meaning of refusals."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.exceptions import ClientError
from pymongo.errors import OperationFailure, PyMongoError, ServerSelectionTimeoutError

from pipeline.clients import lazy
from pipeline.images import sandbox
from pipeline.ops.checks import mongo, settings
from pipeline.ops.checks.aws_answers import ask, meaning
from pipeline.ops.checks.model import CheckStatus, Context, Row
from pipeline.ops.checks.run import CHECKS, findings
from pipeline.ops.checks.secrets import weakness
from pipeline.ops.iam import GRANTS
from pipeline.setting_types import PUBLISHED_POSTBACK_SECRET
from pipeline.settings import Settings

EMULATOR = "http://127.0.0.1:4566"


def signing_secret(seed: int = 1) -> str:
    return "whsec_" + base64.b64encode(Random(seed).randbytes(32)).decode()


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [*Settings.model_fields, "environment", "aws_default_region"]:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    lazy.forget()
    yield
    lazy.forget()


def rows(check: str, **settings: Any) -> list[Row]:
    """Return the findings of one check with these settings."""
    (found,) = [each for each in CHECKS if each.name == check and each.group in {"Settings", "This host", "SQS", "S3"}]
    return list(found.run(Context(Settings(**settings))))


def statuses(found: list[Row]) -> list[tuple[CheckStatus, str]]:
    return [(row.status, row.subject) for row in found if row.status in {CheckStatus.WARN, CheckStatus.FAIL}]


# The settings.


@pytest.mark.parametrize(
    ("secret", "is_signed", "problems"),
    [
        (
            PUBLISHED_POSTBACK_SECRET,
            False,
            {"POSTBACK_SECRET_KEY": "published", "POSTBACK_SIGNING_SECRET": "not signed"},
        ),
        ("none", False, {"POSTBACK_SIGNING_SECRET": "not signed"}),
        ("none", True, {}),
        ("mine-alone-and-long", True, {}),
        ("mine-alone", True, {"POSTBACK_SECRET_KEY": "weak"}),
        ("abcd" * 8, True, {"POSTBACK_SECRET_KEY": "weak"}),
        (signing_secret(), True, {"POSTBACK_SECRET_KEY": "every receiver"}),
    ],
)
def test_a_bad_or_missing_secret_is_named_and_not_shown(secret: str, is_signed: bool, problems: dict[str, str]) -> None:
    given = {"postback_secret_key": secret} | ({"postback_signing_secret": signing_secret()} if is_signed else {})
    found = rows("secrets", **given)
    assert statuses(found) == [(CheckStatus.WARN, name) for name in problems]
    warned = [row for row in found if row.status is CheckStatus.WARN]
    assert all(problems[row.subject] in row.message for row in warned)
    assert secret == "none" or secret not in str(found)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (b"correct horse battery staple", "it is text"),
        (b"\xf0\xe1\xd2" * 8, "too few different bytes"),
        (base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "public documents"),
    ],
)
def test_a_weak_signing_secret_is_named_by_its_position(key: bytes, problem: str) -> None:
    # Given a good secret and a weak one
    weak = base64.b64encode(key).decode()
    # When the settings are checked
    found = rows("secrets", postback_secret_key="none", postback_signing_secret=f"{signing_secret()} whsec_{weak}")
    # Then the second is named, and no secret is shown
    assert statuses(found) == [(CheckStatus.WARN, "POSTBACK_SIGNING_SECRET")]
    assert "Secret 2 of 2" in found[-1].message
    assert problem in found[-1].message
    assert weak not in str(found)


def test_a_rotation_to_the_same_secret_is_named() -> None:
    # With or without its prefix, it is the same secret
    both = f"{signing_secret()} {signing_secret().removeprefix('whsec_')}"
    found = rows("secrets", postback_secret_key="none", postback_signing_secret=both)
    assert statuses(found) == [(CheckStatus.WARN, "POSTBACK_SIGNING_SECRET")]
    assert "repeats secret 1" in found[-1].message


def test_random_secrets_are_never_weak() -> None:
    draw = Random(7)
    assert {weakness(draw.randbytes(size)) for size in range(24, 65) for _ in range(50)} == {""}
    assert {weakness(draw.randbytes(size).hex().encode()) for size in range(16, 33) for _ in range(50)} == {""}


def test_the_default_agent_is_named_because_hosts_block_it() -> None:
    assert statuses(rows("user agent")) == [(CheckStatus.WARN, "USER_AGENT")]
    for harmless in ({"user_agent": "Mine/1.0 (+https://example.com/bot)"}, {"aws_endpoint_url": EMULATOR}):
        assert statuses(rows("user agent", **harmless)) == []


def test_jobs_without_a_proof_are_named() -> None:
    key = "0123456789abcdef" * 2
    assert statuses(rows("job key")) == [(CheckStatus.WARN, "JOB_KEY")]
    assert statuses(rows("job key", job_key=f"{key} none")) == [(CheckStatus.WARN, "JOB_KEY")]
    for harmless in ({"job_key": key}, {"aws_endpoint_url": EMULATOR}):
        assert statuses(rows("job key", **harmless)) == []
    assert key not in str(rows("job key", job_key=key))


def test_on_this_machine_the_published_secret_is_harmless() -> None:
    assert statuses(rows("secrets", aws_endpoint_url=EMULATOR)) == []


@pytest.mark.parametrize(
    ("networks", "endpoint", "wrong"),
    [
        ("10.1.2.3/32", None, False),
        ("0.0.0.0/0", EMULATOR, True),
        ("::/0", None, True),
        ("127.0.0.0/8", EMULATOR, False),
        ("127.0.0.0/8", None, True),
        ("10.0.0.0/8,169.254.169.254/32", None, True),
    ],
)
def test_networks_that_allow_everyone_are_named(networks: str, endpoint: str | None, wrong: bool) -> None:
    for name in ("allowed_networks", "fetch_allowed_networks", "postback_allowed_networks"):
        found = rows("networks", **{name: networks}, aws_endpoint_url=endpoint)
        assert [row.subject for row in found] == [name.upper()]
        assert bool(statuses(found)) is wrong


def test_a_temporary_key_is_named() -> None:
    found = rows("variables", aws_access_key_sqs="ASIAEXAMPLE", aws_secret_key_sqs="x")
    assert statuses(found) == [(CheckStatus.FAIL, "AWS_ACCESS_KEY_SQS")]
    assert "AWS_SESSION_TOKEN" in found[-1].hint


def test_a_variable_with_a_typing_error_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTBACK_SECRETKEY", "hush")
    found = rows("variables")
    assert statuses(found) == [(CheckStatus.WARN, "POSTBACK_SECRETKEY")]
    assert "POSTBACK_SECRET_KEY is" in found[-1].message
    assert "hush" not in str(found)


def test_a_region_without_effect_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert statuses(rows("variables")) == [(CheckStatus.WARN, "AWS_DEFAULT_REGION")]
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    lazy.forget()
    assert statuses(rows("variables")) == []


def test_a_file_that_was_not_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(
        "export S3_BUCKET='pictures'\nQUEUE_URL=https://x/y\n# LEVEL=INFO\nOTHER=1\nMONGO_URL=''\n"
    )
    found = rows("variables")
    assert statuses(found) == [(CheckStatus.WARN, ".env")]
    assert found[-1].message.startswith("QUEUE_URL, S3_BUCKET of this folder's .env")
    monkeypatch.setenv("S3_BUCKET", "pictures")
    monkeypatch.setenv("QUEUE_URL", "https://x/y")
    assert statuses(rows("variables")) == []


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/Input", "It is in eu-west-1, but AWS_REGION=us-east-2"),
        ("https://sqs.us-east-2.amazonaws.com/123456789012/image-pipeline_fetch", "a queue of the service itself"),
        (None, "ingest is off"),
    ],
)
def test_an_input_queue_is_judged_by_its_url(url: str | None, part: str) -> None:
    (row,) = rows("input", queue_url=url)
    assert part in row.message


R2 = "https://0123abc.r2.cloudflarestorage.com"


@pytest.mark.parametrize(
    ("given", "subjects"),
    [
        ({}, []),
        ({"aws_endpoint_url_s3": "http://127.0.0.1:9000"}, []),
        ({"aws_endpoint_url_s3": "https://storage.googleapis.com"}, []),
        ({"aws_endpoint_url_s3": R2}, ["region us-east-2", "public URL"]),
        ({"aws_endpoint_url_s3": R2, "s3_region": "auto"}, ["public URL"]),
        ({"aws_endpoint_url_s3": R2, "s3_region": "auto", "public_base_url": "https://covers.example"}, []),
    ],
)
def test_the_settings_that_a_store_needs_are_named(given: dict[str, str], subjects: list[str]) -> None:
    assert [row.subject for row in rows("store", **given)] == subjects


def test_wrong_values_are_the_only_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_KEY_S3", "hush")
    monkeypatch.setenv("S3_ACL", "open")
    monkeypatch.setenv("MONGO_URL", "mongodb://me:hush@host")
    found = [each.row for each in findings()]
    assert [(row.status, row.subject) for row in found] == [
        (CheckStatus.FAIL, "S3_ACL='open'"),
        (CheckStatus.FAIL, "MONGO_URL"),
    ]
    assert "hush" not in str(found)


# This machine.


def test_the_image_codecs_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "fast_paths", lambda: {"PNG": "kornia-rs", "WebP": "Pillow"})
    assert statuses(rows("codecs")) == [(CheckStatus.WARN, "WebP")]
    assert [row.message for row in rows("codecs")] == [
        "By kornia-rs.",
        "By Pillow instead of the faster library; the images are equally good.",
    ]


def test_a_sandbox_without_a_filter_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert statuses(rows("sandbox")) == []
    monkeypatch.setattr(settings, "why_unfiltered", lambda: "seccomp failed: Function not implemented")
    assert statuses(rows("sandbox")) == [(CheckStatus.WARN, "sandbox")]
    assert "Function not implemented" in rows("sandbox")[0].message


def test_a_sandbox_that_does_not_start_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CHILD", ("-c", "raise SystemExit(7)"))
    assert statuses(rows("sandbox")) == [(CheckStatus.FAIL, "sandbox")]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "9900000 100000\n"}, 16),
        ({}, 16),
    ],
)
def test_memory_is_compared_with_the_cores_that_a_container_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    # given a container on a node with 16 cores and 64 GB
    for name, text in ({"memory.max": "64000000000\n"} | files).items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(settings, "CGROUP", tmp_path, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    # when it is checked, then resize is expected to start one process for each core of the container
    (row,) = rows("memory")
    assert f"{cores} process{'es' if cores > 1 else ''} of 2 GB" in row.message
    assert (f"--processes {cores}" in row.message) == (cores < 16)


def test_too_little_memory_for_resize_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "memory", lambda: 1_000_000_000)
    assert statuses(rows("memory")) == [(CheckStatus.WARN, "memory")]
    monkeypatch.setattr(settings, "memory", lambda: 10**12)
    assert statuses(rows("memory")) == []


@pytest.mark.parametrize(
    ("skew", "status"),
    [(-59, CheckStatus.OK), (61, CheckStatus.WARN), (-299, CheckStatus.WARN), (301, CheckStatus.FAIL)],
)
def test_the_clock_is_judged_by_its_distance(skew: float, status: CheckStatus) -> None:
    (clock,) = [each for each in CHECKS if each.name == "clock"]
    (row,) = clock.run(Context(Settings(), skews={"SQS": skew}))
    assert row.status is status


# The meaning of refusals.


def client_error(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "GetQueueUrl")


def raises(error: Exception) -> Any:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (client_error("UnrecognizedClientException"), "does not know the access key", "AWS_ACCESS_KEY_SQS is not set"),
        (client_error("InvalidSignatureException"), "does not match", "Set its secret key again"),
        (client_error("SignatureDoesNotMatch", "Signature expired: 1 is now earlier than 2"), "clock", "Set the clock"),
        (client_error("ExpiredToken"), "have expired", "restart the processes"),
        (client_error("KMS.AccessDeniedException"), "the key that encrypts it", "kms:Decrypt"),
        (client_error("RequestThrottled"), "busy", "Try again"),
        (boto.NoCredentialsError(), "no credentials are set", "AWS_ACCESS_KEY_SQS and AWS_SECRET_KEY_SQS"),
        (boto.EndpointConnectionError(endpoint_url="x"), "sqs.us-east-2.amazonaws.com", "Check AWS_REGION"),
        (boto.ConnectTimeoutError(endpoint_url="x"), "cannot be reached", "NAT"),
        (boto.SSLError(endpoint_url="x", error="y"), "TLS", "AWS_CA_BUNDLE"),
        (boto.ProfileNotFound(profile="x"), "ProfileNotFound", "sts"),
    ],
)
def test_each_refusal_has_a_hint(error: Exception, message: str, hint: str) -> None:
    found = meaning(ask(raises(error)), "SQS", Settings())
    assert found is not None
    assert message in found[0]
    assert hint in found[1]


def test_missing_permission_or_object_is_an_answer() -> None:
    for code in ("AccessDenied", "QueueDoesNotExist", "NoSuchKey"):
        assert meaning(ask(raises(client_error(code))), "SQS", Settings()) is None


@pytest.mark.parametrize(("days", "status"), [("0", "skip"), ("7", "warn")])
def test_rechecks_without_a_database_are_named(days: str, status: str) -> None:
    (row,) = mongo._answers(Context(Settings(recheck_days=int(days)), None))
    assert row.status == status


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OperationFailure("secret", 18), "does not know the user or the password"),
        (OperationFailure("secret", 8000), "does not know the user or the password"),
        (OperationFailure("secret", 13), "The user may not update it."),
        (OperationFailure("secret", 91), "MongoDB returned OperationFailure 91"),
        (ServerSelectionTimeoutError("secret"), "does not answer"),
    ],
)
def test_each_mongodb_refusal_is_named_without_its_text(error: PyMongoError, part: str) -> None:
    row = mongo._failed("channels", "update it", error)
    assert row.status is CheckStatus.FAIL
    assert part in row.message
    assert "secret" not in f"{row.message} {row.hint}"


# The checks as data.


def test_every_check_has_a_name_and_belongs_to_a_process() -> None:
    assert len({(check.group, check.name) for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert check.processes
        assert check.processes <= set(GRANTS)
