"""What AWS refused, and what that means: codes as data, for a person who has never met them.

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

#: How SQS and S3 say that the caller is known, but may not do this.
DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "AuthorizationError", "403", "Forbidden"})

#: How they say that a request was signed at another time than theirs.
SKEWED: Final = frozenset({"RequestTimeTooSkewed", "RequestExpired"})

#: How S3 says that a bucket is in another region.
ELSEWHERE: Final = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "IllegalLocationConstraintException"}
)

_KEY_UNKNOWN = (
    "does not know the access key.",
    "Look whether {key} was deleted or is of another account; a temporary key, which begins with ASIA, needs a "
    "session token: see `credentials`.",
)
_SECRET_WRONG = (
    "says that the secret key does not fit the access key.",
    "Set {secret} anew; a blank, a quote or a cut end is the usual cause.",
)
_EXPIRED = (
    "says that these temporary credentials have expired.",
    "Get new ones where they come from (the role, the login or AWS_SESSION_TOKEN), and restart the processes.",
)
_SKEW = ("says that this host's clock is wrong.", "Set the clock: `timedatectl set-ntp true`, or chronyd.")
_BUSY = ("is busy or in trouble.", "Try again; if it lasts, look at https://health.aws.amazon.com.")
_KMS = ("may not use the key that encrypts it.", "Allow kms:Decrypt and kms:GenerateDataKey on the KMS key.")

#: By the code of the answer.
_ANSWERS: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(["InvalidClientTokenId", "InvalidAccessKeyId", "UnrecognizedClientException"], _KEY_UNKNOWN),
    **dict.fromkeys(["InvalidToken", "AuthFailure", "InvalidSecurity", "NotSignedUp"], _KEY_UNKNOWN),
    **dict.fromkeys(["SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature"], _SECRET_WRONG),
    **dict.fromkeys(["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"], _EXPIRED),
    **dict.fromkeys(SKEWED, _SKEW),
    **dict.fromkeys(["SlowDown", "ServiceUnavailable", "InternalError", "InternalFailure", "503", "500"], _BUSY),
    **dict.fromkeys(["Throttling", "ThrottlingException", "RequestThrottled", "RequestLimitExceeded"], _BUSY),
    **dict.fromkeys(["KMS.AccessDeniedException", "KmsAccessDenied", "KMS.DisabledException"], _KMS),
    "OptInRequired": ("says that the account has not enabled this region.", "Enable it, or set AWS_REGION."),
    "AllAccessDisabled": ("has closed this account or bucket.", "Ask whoever owns the AWS account."),
}

_WAY_OUT = "Look at {where}, at DNS, and whether this host may go out (NAT, security group)."

#: By what botocore raises where there is no answer; the first that fits.
_NO_ANSWER: Final[tuple[tuple[type[BotoCoreError], str, str], ...]] = (
    (
        boto.NoCredentialsError,
        "cannot be asked: no credentials are set, and boto3's chain finds none.",
        "Give this host or task a role, or set {pair}.",
    ),
    (
        boto.PartialCredentialsError,
        "cannot be asked: there is one half of the credentials.",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY together.",
    ),
    (
        boto.ProfileNotFound,
        "cannot be asked: AWS_PROFILE names a profile that is not there.",
        "Unset AWS_PROFILE, or mend ~/.aws/config.",
    ),
    (boto.SSLError, "shows a TLS certificate that is not trusted here.", "Look at {where} and at AWS_CA_BUNDLE."),
    (boto.ProxyConnectionError, "cannot be reached through the proxy.", "Look at https_proxy and no_proxy."),
    (boto.ConnectionError, "cannot be reached at {address}.", _WAY_OUT),
    (boto.HTTPClientError, "cannot be reached at {address}.", _WAY_OUT),
    (
        boto.BotoCoreError,
        "cannot be asked at {address} ({name}).",
        "Look at {where} and where the credentials come from; `aws sts get-caller-identity` tries them.",
    ),
)


@dataclass(frozen=True)
class Answer:
    """How a request went: its answer or what was raised, and the answer's headers where there was one."""

    value: Any
    error: ClientError | BotoCoreError | None
    headers: Mapping[str, str]
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def code(self) -> str:
        """The service's code of a refusal; empty where it did not refuse."""
        return aws.aws_code(self.error) if isinstance(self.error, ClientError) else ""

    @property
    def skew(self) -> float | None:
        """Seconds that this host's clock is ahead of the service's; None where its answer had no time."""
        try:
            return (self.at - parsedate_to_datetime(self.headers["date"])).total_seconds()
        except (LookupError, ValueError):
            return None

    @property
    def denied(self) -> bool:
        """Whether the caller is known, but may not do this."""
        return self.code in DENIED


def ask(call: Callable[[], Any]) -> Answer:
    """The answer to a request of boto3; what it raises is part of it."""
    try:
        value = call()
        return Answer(value, None, _headers(value))
    except ClientError as error:
        return Answer(None, error, _headers(error.response))
    except BotoCoreError as error:
        return Answer(None, error, {})


def meaning(answer: Answer, service: str, settings: Settings) -> tuple[str, str] | None:
    """What is wrong and what to do, where `service` (S3 or SQS) could not be asked at all; None where it answered.

    That the caller may not do this one thing, or that this one thing is not there, is an answer.
    """
    if answer.error is None:
        return None
    own_key = f"AWS_ACCESS_KEY_{service}"
    is_set = getattr(settings, own_key.lower()) is not None
    endpoint = settings.s3_endpoint if service == "S3" else settings.sqs_endpoint
    words = {
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
    message, hint = (text.format(**words) for text in found)
    return f"{service} {message}", hint


def unforeseen(answer: Answer, service: str, doing: str) -> tuple[str, str]:
    """What is said of an answer that no check foresees."""
    return f"{service} refused to {doing}: {answer.code}.", "Look the code up in AWS's documentation."


def _headers(response: Any) -> Mapping[str, str]:
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, Mapping) else {}
    return dict(metadata.get("HTTPHeaders", {}))
