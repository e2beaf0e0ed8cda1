"""The meaning of refusals by AWS."""

from __future__ import annotations

from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.exceptions import ClientError

from pipeline.ops.checks.aws_answers import ask, meaning
from pipeline.settings import Settings


def client_error(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "GetQueueUrl")


def raises(error: Exception) -> Any:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (client_error("UnrecognizedClientException"), "does not know the access key", "AWS_ACCESS_KEY_SQS is not set"),
        (client_error("InvalidSignatureException"), "does not match", "Set its secret key again"),
        (client_error("SignatureDoesNotMatch", "Signature expired: 1 is now earlier than 2"), "clock", "Set the clock"),
        (client_error("ExpiredToken"), "have expired", "restart the processes"),
        (client_error("KMS.AccessDeniedException"), "the key that encrypts it", "kms:Decrypt"),
        (client_error("RequestThrottled"), "busy", "Try again"),
        (boto.NoCredentialsError(), "no credentials are set", "AWS_ACCESS_KEY_SQS and AWS_SECRET_KEY_SQS"),
        (boto.EndpointConnectionError(endpoint_url="x"), "sqs.us-east-2.amazonaws.com", "Check AWS_REGION"),
        (boto.ConnectTimeoutError(endpoint_url="x"), "cannot be reached", "NAT"),
        (boto.SSLError(endpoint_url="x", error="y"), "TLS", "AWS_CA_BUNDLE"),
        (boto.ProfileNotFound(profile="x"), "ProfileNotFound", "sts"),
    ],
)
def test_each_refusal_has_a_hint(error: Exception, message: str, hint: str) -> None:
    found = meaning(ask(raises(error)), "SQS", Settings())
    assert found is not None
    assert message in found[0]
    assert hint in found[1]


def test_missing_permission_or_object_is_an_answer() -> None:
    for code in ("AccessDenied", "QueueDoesNotExist", "NoSuchKey"):
        assert meaning(ask(raises(client_error(code))), "SQS", Settings()) is None
