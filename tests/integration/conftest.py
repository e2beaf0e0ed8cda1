"""The embedded stack for tests: real connections to real servers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from pipeline import clients
from pipeline.embedded import REGION, EmbeddedStack
from pipeline.settings import Settings


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """SQS and S3, one for the whole run."""
    with EmbeddedStack(tmp_path_factory.mktemp("stack"), with_mongo=False) as stack:
        yield stack


@pytest.fixture(scope="session")
def stack_with_mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """SQS, S3 and MongoDB, for the tests of sweeps."""
    with EmbeddedStack(tmp_path_factory.mktemp("mongo")) as stack:
        yield stack


@pytest.fixture
def aws(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of this test: queue names and a bucket of its own. Yields the variables, for child processes.

    The bucket accepts ACLs. Any other variable of ours that the developer has set is unset.
    """
    yield from _environment(stack, monkeypatch)


@pytest.fixture
def database(stack_with_mongo: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database[dict[str, Any]]]:
    """The same as `aws` with a database of this test's own, which it yields."""
    for _ in _environment(stack_with_mongo, monkeypatch):
        url = f"{stack_with_mongo.environ['MONGO_URL']}_{secrets.token_hex(4)}"
        monkeypatch.setenv("MONGO_URL", url)
        clients.forget()
        with MongoClient[dict[str, Any]](url, tz_aware=True) as client:
            yield client.get_default_database()


def _environment(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    unique = secrets.token_hex(4)
    environ = stack.environ | {
        "QUEUE_NAMESPACE": f"test-{unique}",
        "S3_BUCKET": f"test-{unique}",
        "METRICS_PORT": "0",  # a test that wants it says where
    }
    for name in [*Settings.model_fields, "environment"]:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    clients.forget()
    clients.s3().create_bucket(
        Bucket=environ["S3_BUCKET"],
        CreateBucketConfiguration={"LocationConstraint": REGION},
        ObjectOwnership="ObjectWriter",
    )
    yield environ
    clients.forget()
