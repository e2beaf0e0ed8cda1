"""Lazy clients, one of each kind per process, shared by its threads. Nothing is opened at import."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from pipeline.settings import Settings, get_settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from pydantic import SecretStr

#: Connections kept open to one service: more than the threads of any process in the Procfile.
POOL_SIZE = 64


def aws_config(settings: Settings, **more: Any) -> Config:
    """What every AWS client shares. Times are in seconds; a caller that must be prompt may shorten them."""
    return Config(
        region_name=settings.aws_region,
        max_pool_connections=POOL_SIZE,
        connect_timeout=5,
        tcp_keepalive=True,
        **{"read_timeout": 20, "retries": {"mode": "standard", "total_max_attempts": 3}} | more,
    )


def sqs_options(settings: Settings) -> dict[str, Any]:
    """The keyword arguments of an SQS client or resource.

    SQS is tried once only: a send that was applied but whose answer was lost would be sent again by botocore, and the
    queue layer retries by itself. Reading waits longer than the longest poll (20 s).
    """
    return {
        **_credentials(settings.aws_access_key_sqs, settings.aws_secret_key_sqs),
        "endpoint_url": settings.sqs_endpoint,
        "config": aws_config(settings, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 1}),
    }


def _credentials(key: SecretStr | None, secret: SecretStr | None) -> dict[str, str]:
    if not (key and secret):
        return {}
    return {"aws_access_key_id": key.get_secret_value(), "aws_secret_access_key": secret.get_secret_value()}


@cache
def s3() -> S3Client:
    """The S3 client."""
    settings = get_settings()
    return boto3.session.Session().client(
        "s3",
        **_credentials(settings.aws_access_key_s3, settings.aws_secret_key_s3),
        endpoint_url=settings.s3_endpoint,
        config=aws_config(settings, s3={"addressing_style": "path"} if settings.s3_endpoint else {}),
    )


@cache
def sqs() -> SQSClient:
    """The SQS client of everything but the stage queues, whose broker has its own."""
    return boto3.session.Session().client("sqs", **sqs_options(get_settings()))


def forget() -> None:
    """Drop every client and the settings, so that the next use reads the environment again (for tests)."""
    for cached in (s3, sqs, get_settings):
        cached.cache_clear()
