"""Each test of the queue layer runs on two independent SQS: ministack and moto."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.clients import lazy
from tests.support.second_server import running
from tests.support.second_sqs import Moto

#: For tests that take long, or do not depend on the answers of SQS.
on_ministack = pytest.mark.parametrize("environment", ["ministack"], indirect=True)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(Moto, tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture(params=["ministack", "moto"])
def environment(
    request: pytest.FixtureRequest, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The variables of the same fixture elsewhere, with each of the two SQS."""
    if request.param == "ministack":
        return environment
    endpoint = request.getfixturevalue("moto")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", endpoint)
    lazy.forget()
    return environment | {"AWS_ENDPOINT_URL_SQS": endpoint}
