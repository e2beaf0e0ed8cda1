"""obstore's client asks the endpoint that boto3 asks. Nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
import pytest
from botocore.awsrequest import AWSPreparedRequest

from pipeline.clients import aws, lazy
from pipeline.clients.object_store import store
from pipeline.settings import get_settings

BUCKET, KEY = "covers", "a/b.jpeg"


@pytest.fixture(autouse=True)
def _fresh_clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name, value in {
        "AWS_ACCESS_KEY_S3": "key",
        "AWS_SECRET_KEY_S3": "secret",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "S3_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    lazy.forget()
    yield
    lazy.forget()


class _NotSent(Exception):
    pass


def asked_by_boto3() -> str:
    """Return scheme, host and port of boto3's requests, without the bucket."""

    def stop(request: AWSPreparedRequest, **_: Any) -> None:
        raise _NotSent(request.url)

    client = aws.s3()
    client.meta.events.register("before-send.s3", stop)
    with pytest.raises(_NotSent) as caught:
        client.head_object(Bucket=BUCKET, Key=KEY)
    parts = urlsplit(str(caught.value))
    return f"{parts.scheme}://{parts.netloc.removeprefix(f'{BUCKET}.')}"


def asked_by_obstore() -> str:
    parts = urlsplit(obstore.sign(store(BUCKET), "GET", KEY, timedelta(minutes=1)))
    assert parts.path == f"/{BUCKET}/{KEY}"
    return f"{parts.scheme}://{parts.netloc}"


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, "https://s3.us-east-2.amazonaws.com"),
        ({"S3_REGION": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com"),
        ({"AWS_REGION": "cn-north-1"}, "https://s3.cn-north-1.amazonaws.com.cn"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "https://s3-fips.us-east-2.amazonaws.com"),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "https://s3.dualstack.us-east-2.amazonaws.com"),
        (
            {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_REGION": "us-gov-west-1"},
            "https://s3-fips.dualstack.us-gov-west-1.amazonaws.com",
        ),
        ({"AWS_ENDPOINT_URL": "http://localhost:4566"}, "http://localhost:4566"),
        (
            {"AWS_ENDPOINT_URL_S3": "https://minio.example:9000", "AWS_ENDPOINT_URL": "http://localhost:4566"},
            "https://minio.example:9000",
        ),
        (
            {"AWS_ENDPOINT_URL_S3": "https://minio.example", "AWS_USE_FIPS_ENDPOINT": "true"},
            "https://minio.example",
        ),
    ],
    ids=lambda value: " ".join(f"{name}={each}" for name, each in value.items()) if isinstance(value, dict) else "",
)
def test_both_clients_ask_the_same_host(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], endpoint: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert asked_by_obstore() == endpoint
    assert asked_by_boto3() == endpoint


@pytest.mark.parametrize(
    ("lines", "endpoint"),
    [
        ("use_fips_endpoint = true", "https://s3-fips.us-east-2.amazonaws.com"),
        ("use_dualstack_endpoint = true", "https://s3.dualstack.us-east-2.amazonaws.com"),
        ("s3 =\n  use_dualstack_endpoint = true", "https://s3.dualstack.us-east-2.amazonaws.com"),
        ("endpoint_url = http://localhost:4566", "http://localhost:4566"),
    ],
)
def test_both_clients_follow_the_shared_configuration_file(tmp_path: Path, lines: str, endpoint: str) -> None:
    (tmp_path / "config").write_text(f"[default]\n{lines}\n", encoding="utf-8")
    assert asked_by_obstore() == endpoint
    assert asked_by_boto3() == endpoint


def test_public_urls_do_not_follow_the_endpoint_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    assert get_settings().public_url_base == "https://s3.us-east-2.amazonaws.com/images-ch"
