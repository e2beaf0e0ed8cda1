"""Putting messages on the input queue, as producers do."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from pipeline.clients import aws
from pipeline.errors import Rejected, SettingsError
from pipeline.payload import to_json, validated
from pipeline.settings import get_settings
from pipeline.sqs.queues import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import SendMessageRequestTypeDef


def send_message(payload: dict[str, Any], queue_url: str | None = None) -> str:
    """Put `payload` as raw JSON on the queue `queue_url`, by default `QUEUE_URL`; returns the message's id.

    On a FIFO queue each message has a random group and deduplication id, so that two equal messages are two jobs.

    Raises:
        Rejected: the payload breaks a rule of the contract; nothing was sent.
        SettingsError: neither `queue_url` nor QUEUE_URL names a queue.
        RetryableError: SQS could not be reached, or refused; whether it has the message is not known.
    """
    body = to_json(validated(payload, get_settings().own_queues))
    if (size := len(body.encode())) > MAX_MESSAGE_BYTES:
        raise Rejected("too_large", f"The message has {size} bytes; SQS takes {MAX_MESSAGE_BYTES}.")
    url = queue_url or get_settings().queue_url
    if not url:
        raise SettingsError("QUEUE_URL is not set: name the input queue there, or as queue_url.")
    request: SendMessageRequestTypeDef = {"QueueUrl": url, "MessageBody": body}
    if url.endswith(".fifo"):
        request |= {"MessageGroupId": uuid.uuid4().hex, "MessageDeduplicationId": uuid.uuid4().hex}
    with aws.aws_errors("sqs", "send the message"):
        return aws.sqs().send_message(**request)["MessageId"]
