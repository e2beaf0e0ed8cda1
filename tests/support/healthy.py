"""A healthy set-up, which tests of `check` break in one way each."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from pipeline.clients import aws, lazy
from pipeline.local.embedded import EmbeddedStack
from pipeline.ops.provision import plan
from pipeline.settings import Settings, get_settings


@pytest.fixture(scope="module")
def provisioned(stack: EmbeddedStack) -> Iterator[dict[str, str]]:
    """The variables of a healthy set-up: everything that `provision` creates, and an input queue."""
    unique = f"check-{secrets.token_hex(4)}"
    variables = stack.environ | {"MONGO_URL": "", "QUEUE_NAMESPACE": unique, "S3_BUCKET": unique}
    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch, variables)
        provision()
        queue = aws.sqs().create_queue(QueueName=f"{unique}_input.fifo", Attributes={"FifoQueue": "true"})
        yield variables | {"QUEUE_URL": queue["QueueUrl"]}


@pytest.fixture
def service(provisioned: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The variables of the healthy set-up, set for one test."""
    set_environment(monkeypatch, provisioned)
    yield provisioned
    lazy.forget()


def set_environment(patch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in [*Settings.model_fields, "environment"]:
        patch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        patch.setenv(name, value)
    lazy.forget()


def provision() -> None:
    for change in plan(get_settings(), create_bucket=True):
        change.apply()
