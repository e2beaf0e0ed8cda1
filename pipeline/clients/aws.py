"""Clients of S3 and SQS, one of each kind per process, shared by its threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

from pipeline.clients.lazy import Lazy
from pipeline.errors import RetryableError
from pipeline.metrics import count_request
from pipeline.settings import Settings, get_settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from obstore.store import RetryConfig, S3Credential
    from pydantic import SecretStr

    Client = TypeVar("Client", S3Client, SQSClient)

#: Connections kept open to one service: more than the threads of any process in the Procfile.
POOL_SIZE = 64

#: How long obstore uses what boto3 gave it: boto3 hands out temporary credentials that are good for 10 minutes or more.
#: https://github.com/boto/botocore/blob/develop/botocore/credentials.py (RefreshableCredentials)
CREDENTIALS_TTL = timedelta(minutes=5)

_STORE_RETRIES: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=2), "base": 2},
}
_DEFAULTS: dict[str, Any] = {"read_timeout": 20, "retries": {"mode": "standard", "total_max_attempts": 3}}


def aws_config(settings: Settings, **more: Any) -> Config:
    """What every AWS client shares. Times are in seconds; a caller that must be prompt may shorten them."""
    return Config(
        region_name=settings.aws_region,
        user_agent="image-pipeline",  # else botocore works it out for each request, a tenth of the CPU of one to SQS
        max_pool_connections=POOL_SIZE,
        connect_timeout=5,
        tcp_keepalive=True,
        **_DEFAULTS | more,
    )


def _credentials(key: SecretStr | None, secret: SecretStr | None) -> dict[str, Any]:
    if not (key and secret):
        return {}
    return {"aws_access_key_id": key.get_secret_value(), "aws_secret_access_key": secret.get_secret_value()}


@Lazy
def s3() -> S3Client:
    """The S3 client."""
    settings = get_settings()
    client = boto3.session.Session().client(
        "s3",
        **_credentials(settings.aws_access_key_s3, settings.aws_secret_key_s3),
        endpoint_url=settings.s3_endpoint,
        config=aws_config(settings, s3={"addressing_style": "path"} if settings.s3_endpoint else {}),
    )
    return _counted(client, "s3")


@Lazy
def store(bucket: str, acl: str = "") -> S3Store:
    """The bucket to obstore; what is put there gets the canned `acl`, if one is named.

    Everything is said, so that it asks no variables of its own. Its time limit holds for the whole of an answer.
    """
    settings = get_settings()
    return S3Store(
        bucket,
        aws_endpoint_url_s3=settings.s3_endpoint or f"https://s3.{settings.aws_region}.amazonaws.com",
        region=settings.aws_region,
        virtual_hosted_style_request=False,
        skip_signature=False,
        # TLS guards the body, which takes 0.9 ms to hash for a source of 1.5 MB. boto3 signs none under TLS either.
        unsigned_payload=not (settings.s3_endpoint or "").startswith("http:"),
        disable_bulk_delete=True,  # S3 bills for DeleteObjects as for a PUT, and not for DELETE
        credential_provider=_store_credentials(settings),
        retry_config=_STORE_RETRIES,
        client_options={
            "allow_http": bool(settings.s3_endpoint),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=30),
            "default_headers": {"x-amz-acl": acl} if acl else {},
        },
    )


def _store_credentials(settings: Settings) -> Callable[[], S3Credential]:
    keys = _credentials(settings.aws_access_key_s3, settings.aws_secret_key_s3)
    session = boto3.session.Session(region_name=settings.aws_region, **keys)
    try:
        return Boto3CredentialProvider(session, ttl=CREDENTIALS_TTL)
    except ValueError:
        raise RetryableError(
            "s3_error", "There are no credentials for S3: no AWS_ACCESS_KEY_S3 is set, and boto3 finds none."
        ) from None


@Lazy
def sqs() -> SQSClient:
    """The SQS client.

    It tries once only: a send that was applied but whose answer was lost would be sent again by botocore, and the queue
    layer retries by itself. It waits for an answer longer than the longest poll (20 s).
    """
    settings = get_settings()
    client = boto3.session.Session().client(
        "sqs",
        **_credentials(settings.aws_access_key_sqs, settings.aws_secret_key_sqs),
        endpoint_url=settings.sqs_endpoint,
        config=aws_config(settings, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 1}),
    )
    return _counted(client, "sqs")


def _counted(client: Client, service: str) -> Client:
    """The client, with each attempt of a request counted."""

    def count(event_name: str, response_dict: Mapping[str, Any] | None, **_: Any) -> None:
        status = None if response_dict is None else response_dict["status_code"]
        count_request(service, event_name.rpartition(".")[2], status)

    client.meta.events.register(f"response-received.{service}", count)
    return client


def aws_code(error: ClientError) -> str:
    """The service's own name for what it refused: `NoSuchKey`, `AccessDenied`, ..."""
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


@contextmanager
def aws_errors(service: str, doing: str) -> Iterator[None]:
    """Turns what boto3 raises into a RetryableError `<service>_error` that says what was being done."""
    try:
        yield
    except ClientError as error:
        raise RetryableError(f"{service}_error", f"Could not {doing}: {service} said {aws_code(error)}.") from error
    except BotoCoreError as error:
        raise RetryableError(f"{service}_error", f"Could not {doing}: {type(error).__name__}.") from error
