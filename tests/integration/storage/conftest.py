"""Each test of objects runs on two independent S3: the embedded one, and SeaweedFS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.clients import aws, lazy
from tests.support.second_s3 import SeaweedFS
from tests.support.second_server import running

EMBEDDED, SECOND = "embedded", "seaweedfs"


@pytest.fixture(scope="session")
def second_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(SeaweedFS, tmp_path_factory.mktemp("seaweedfs")) as endpoint:
        yield endpoint


@pytest.fixture(params=[EMBEDDED, SECOND])
def each_store(
    request: pytest.FixtureRequest, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The variables of `environment`, with its bucket in each of the stores."""
    if request.param == SECOND:
        return on_second_store(request, environment, monkeypatch)
    return environment


@pytest.fixture
def on_seaweedfs(
    request: pytest.FixtureRequest, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The variables of `environment`, with its bucket in SeaweedFS."""
    return on_second_store(request, environment, monkeypatch)


def on_second_store(
    request: pytest.FixtureRequest, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    endpoint = request.getfixturevalue("second_endpoint")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    lazy.forget()
    aws.s3().create_bucket(Bucket=environment["S3_BUCKET"])
    return environment | {"AWS_ENDPOINT_URL_S3": endpoint}
