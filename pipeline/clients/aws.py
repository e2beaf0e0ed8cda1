"""Clients of S3 and SQS, one of each kind per process, shared by its threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.clients.lazy import Lazy
from pipeline.errors import RetryableError
from pipeline.settings import Settings, get_settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from pydantic import SecretStr

    Client = TypeVar("Client", S3Client, SQSClient)

#: Connections kept open to one service: more than the threads of any process in the Procfile.
POOL_SIZE = 64

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


def credentials(key: SecretStr | None, secret: SecretStr | None) -> dict[str, Any]:
    """Return the keyword arguments of a boto3 client or session; none where boto3 is to look for credentials itself."""
    if not (key and secret):
        return {}
    return {"aws_access_key_id": key.get_secret_value(), "aws_secret_access_key": secret.get_secret_value()}


@Lazy
def s3() -> S3Client:
    """The S3 client."""
    settings = get_settings()
    import boto3.session  # noqa: PLC0415 - half of the CPU that a producer's import would cost

    client = boto3.session.Session().client(
        "s3",
        **credentials(settings.aws_access_key_s3, settings.aws_secret_key_s3),
        endpoint_url=settings.s3_endpoint,
        config=aws_config(settings, s3={"addressing_style": "path"} if settings.s3_endpoint else {}),
    )
    return _counted(client, "s3")


@Lazy
def sqs() -> SQSClient:
    """The SQS client.

    It tries once only: a send that was applied but whose answer was lost would be sent again by botocore, and the queue
    layer retries by itself. It waits for an answer longer than the longest poll (20 s).
    """
    settings = get_settings()
    import boto3.session  # noqa: PLC0415 - half of the CPU that a producer's import would cost

    client = boto3.session.Session().client(
        "sqs",
        **credentials(settings.aws_access_key_sqs, settings.aws_secret_key_sqs),
        endpoint_url=settings.sqs_endpoint,
        config=aws_config(settings, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 1}),
    )
    return _counted(client, "sqs")


def _counted(client: Client, service: str) -> Client:
    """The client, with each attempt of a request counted."""

    def count(event_name: str, response_dict: Mapping[str, Any] | None, **_: Any) -> None:
        from pipeline.metrics import count_request  # noqa: PLC0415 - a producer pays for it only once it sends

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
