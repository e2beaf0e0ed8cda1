"""Explains the errors of AWS: codes as data, with a message and a hint for people.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.clients import aws
from pipeline.settings import Settings

#: Codes of SQS and S3 for a known caller without permission.
DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "AuthorizationError", "403", "Forbidden"})

#: Codes for a signature whose time is too far from AWS's.
SKEWED: Final = frozenset({"RequestTimeTooSkewed", "RequestExpired"})

#: Codes of S3 for a bucket in another region.
ELSEWHERE: Final = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "IllegalLocationConstraintException"}
)

_KEY_UNKNOWN = (
    "does not know the access key.",
    "Check whether {key} was deleted or belongs to another account. A temporary key, which begins with ASIA, also "
    "needs a session token.",
)
_SECRET_WRONG = (
    "reports that the secret key does not match the access key.",
    "Set {secret} again; the usual cause is a space, a quote or a missing end.",
)
_EXPIRED = (
    "reports that these temporary credentials have expired.",
    "Get new ones from their source (the role, the login or AWS_SESSION_TOKEN), and restart the processes.",
)
_SKEW = ("reports that this host's clock is wrong.", "Set the clock: `timedatectl set-ntp true`, or chronyd.")
_BUSY = ("is busy or failing.", "Try again; if it persists, see https://health.aws.amazon.com.")
_KMS = ("may not use the key that encrypts it.", "Allow kms:Decrypt and kms:GenerateDataKey on the KMS key.")

#: Message and hint by error code.
_ANSWERS: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(["InvalidClientTokenId", "InvalidAccessKeyId", "UnrecognizedClientException"], _KEY_UNKNOWN),
    **dict.fromkeys(["InvalidToken", "AuthFailure", "InvalidSecurity", "NotSignedUp"], _KEY_UNKNOWN),
    **dict.fromkeys(["SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature"], _SECRET_WRONG),
    **dict.fromkeys(["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"], _EXPIRED),
    **dict.fromkeys(SKEWED, _SKEW),
    **dict.fromkeys(["SlowDown", "ServiceUnavailable", "InternalError", "InternalFailure", "503", "500"], _BUSY),
    **dict.fromkeys(["Throttling", "ThrottlingException", "RequestThrottled", "RequestLimitExceeded"], _BUSY),
    **dict.fromkeys(["KMS.AccessDeniedException", "KmsAccessDenied", "KMS.DisabledException"], _KMS),
}

_UNREACHABLE = "Check {where}, DNS, and whether this host has outbound access (NAT, security group)."

#: Exceptions of botocore with their message and hint, if AWS did not answer. The first match counts.
_NO_ANSWER: Final[tuple[tuple[type[BotoCoreError], str, str], ...]] = (
    (
        boto.NoCredentialsError,
        "cannot be asked because no credentials are set and boto3's chain finds none.",
        "Give this host or task a role, or set {pair}.",
    ),
    (boto.SSLError, "has a TLS certificate that this host does not trust.", "Check {where} and AWS_CA_BUNDLE."),
    (boto.ProxyConnectionError, "cannot be reached through the proxy.", "Check https_proxy and no_proxy."),
    (boto.ConnectionError, "cannot be reached at {address}.", _UNREACHABLE),
    (boto.HTTPClientError, "cannot be reached at {address}.", _UNREACHABLE),
    (
        boto.BotoCoreError,
        "cannot be asked at {address} ({name}).",
        "Check {where} and the source of the credentials; `aws sts get-caller-identity` tests them.",
    ),
)


@dataclass(frozen=True)
class Answer:
    """The outcome of a request: its response or exception, and the headers of the response if there was one."""

    value: Any
    error: ClientError | BotoCoreError | None
    headers: Mapping[str, str]
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def code(self) -> str:
        """The service's error code; empty if it did not return an error."""
        return aws.aws_code(self.error) if isinstance(self.error, ClientError) else ""

    @property
    def skew(self) -> float | None:
        """Seconds that this host's clock is ahead of the service's; None if the response had no date."""
        try:
            return (self.at - parsedate_to_datetime(self.headers["date"])).total_seconds()
        except (LookupError, ValueError):
            return None

    @property
    def denied(self) -> bool:
        """Whether the caller is known, but lacks the permission."""
        return self.code in DENIED


def ask(call: Callable[[], Any]) -> Answer:
    """Make a request with boto3; return its exception as a part of the answer."""
    try:
        value = call()
        return Answer(value, None, _headers(value))
    except ClientError as error:
        return Answer(None, error, _headers(error.response))
    except BotoCoreError as error:
        return Answer(None, error, {})


def meaning(answer: Answer, service: str, settings: Settings) -> tuple[str, str] | None:
    """Explain why a service could not be asked at all.

    A missing permission and a missing resource count as answers.

    Args:
        answer: The outcome of a request.
        service: `S3` or `SQS`.
        settings: The settings, from which the hint names variables.

    Returns:
        Message and hint, or None if the service answered.
    """
    if answer.error is None:
        return None
    own_key = f"AWS_ACCESS_KEY_{service}"
    is_set = getattr(settings, own_key.lower()) is not None
    endpoint = settings.s3_endpoint if service == "S3" else settings.sqs_endpoint
    parts = {
        "key": own_key if is_set else f"the access key of boto3's chain ({own_key} is not set)",
        "secret": f"AWS_SECRET_KEY_{service}" if is_set else "its secret key",
        "where": f"AWS_ENDPOINT_URL_{service} or AWS_ENDPOINT_URL" if endpoint else "AWS_REGION",
        "address": endpoint or f"{service.lower()}.{settings.aws_region}.amazonaws.com",
        "pair": f"{own_key} and AWS_SECRET_KEY_{service}",
        "name": type(answer.error).__name__,
    }
    if isinstance(answer.error, ClientError):
        text = str(answer.error.response.get("Error", {}).get("Message", "")).lower()
        signed_late = "signature expired" in text or "signature not yet current" in text
        found = _SKEW if signed_late else _ANSWERS.get(answer.code)
    else:
        found = next(((message, hint) for kind, message, hint in _NO_ANSWER if isinstance(answer.error, kind)), None)
    if not found:
        return None
    message, hint = (text.format(**parts) for text in found)
    return f"{service} {message}", hint


def unexpected(answer: Answer, service: str, doing: str) -> tuple[str, str]:
    """Return message and hint for an error that no check expects."""
    return f"{service} refused to {doing}: {answer.code}.", "Look up the code in AWS's documentation."


def _headers(response: Any) -> Mapping[str, str]:
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, Mapping) else {}
    return dict(metadata.get("HTTPHeaders", {}))
