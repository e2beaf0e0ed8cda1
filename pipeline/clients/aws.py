"""boto3 clients of S3 and SQS. The threads of a process share one of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.clients.lazy import POOL_SIZE, Lazy
from pipeline.errors import Code, RetryableError
from pipeline.settings import Settings, get_settings

if TYPE_CHECKING:
    from boto3.session import Session
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from pydantic import SecretStr

_DEFAULTS: dict[str, Any] = {"read_timeout": 20, "retries": {"mode": "standard", "total_max_attempts": 3}}

#: Options for endpoints other than AWS's. Stores need not have a host name for each bucket, nor S3's newer checksums.
_OTHER_STORES: dict[str, Any] = {
    "s3": {"addressing_style": "path"},
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


def aws_config(settings: Settings, **more: Any) -> Config:
    """Return the configuration shared by all AWS clients. `more` overrides it; timeouts are in seconds."""
    return Config(
        user_agent="image-pipeline",  # otherwise botocore builds it per request, a tenth of the CPU of one to SQS
        max_pool_connections=POOL_SIZE,
        connect_timeout=5,
        tcp_keepalive=True,
        **{"region_name": settings.aws_region} | _DEFAULTS | more,
    )


def credentials(key: SecretStr | None, secret: SecretStr | None) -> dict[str, Any]:
    """Return keyword arguments for a boto3 client or session; empty if boto3 should find credentials itself."""
    if not (key and secret):
        return {}
    return {"aws_access_key_id": key.get_secret_value(), "aws_secret_access_key": secret.get_secret_value()}


@Lazy
def s3() -> S3Client:
    """Create the S3 client."""
    return _new_s3()


@Lazy
def s3_endpoint() -> str:
    """Return the endpoint that boto3 asks for objects.

    It depends on the region's partition, on FIPS and dual stack, and on the shared configuration file. The client that
    resolves it is not kept, because it holds 13 MB, and workers transfer objects with obstore.
    """
    return get_settings().s3_endpoint or _new_s3().meta.endpoint_url


def _new_s3() -> S3Client:
    settings = get_settings()
    keys = credentials(settings.aws_access_key_s3, settings.aws_secret_key_s3)
    config = aws_config(settings, region_name=settings.region_of_s3, **(_OTHER_STORES if settings.s3_endpoint else {}))
    client: S3Client = _client("s3", _session(keys), endpoint_url=settings.s3_endpoint, config=config)
    return client


@Lazy
def sqs() -> SQSClient:
    """Create the SQS client.

    It does not retry, because botocore would repeat a send whose answer was lost. The queue layer has its own retries.
    The read timeout is longer than the longest poll (20 s).
    """
    settings = get_settings()
    # Validation would be a tenth of the CPU of a request, and SQS validates too.
    options = {"parameter_validation": False, "retries": {"mode": "standard", "total_max_attempts": 1}}
    config = aws_config(settings, read_timeout=30, **options)
    keys = credentials(settings.aws_access_key_sqs, settings.aws_secret_key_sqs)
    client: SQSClient = _client("sqs", _session(keys), endpoint_url=settings.sqs_endpoint, config=config)
    return client


def _session(keys: Mapping[str, Any]) -> Session:
    import boto3.session  # noqa: PLC0415 - half of the CPU that a producer's import would cost

    return boto3.session.Session(**keys)


def _client(service: str, session: Session, **options: Any) -> Any:
    """Create a boto3 client that counts its HTTP requests, retries included."""

    def count(event_name: str, response_dict: Mapping[str, Any] | None, **_: Any) -> None:
        from pipeline.metrics import count_request  # noqa: PLC0415 - a producer pays for it only once it sends

        status = None if response_dict is None else response_dict["status_code"]
        count_request(service, event_name.rpartition(".")[2], status)

    client = session.client(service, **options)  # type: ignore[call-overload]
    client.meta.events.register(f"response-received.{service}", count)
    return client


def aws_code(error: ClientError) -> str:
    """Return the error code of an AWS response, such as `NoSuchKey` or `AccessDenied`."""
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


@contextmanager
def aws_errors(service: Literal["aws", "s3", "sqs"], doing: str) -> Iterator[None]:
    """Translate errors of boto3 to a RetryableError `<service>_error` with the message "Could not <doing>: ..."."""
    code = cast("Code", f"{service}_error")
    try:
        yield
    except ClientError as error:
        answer = f"{service.upper()} answered {aws_code(error)}"
        raise RetryableError(code, f"Could not {doing}: {answer}.") from error
    except BotoCoreError as error:
        raise RetryableError(code, f"Could not {doing}: {type(error).__name__}.") from error
