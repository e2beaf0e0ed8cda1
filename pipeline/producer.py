"""Sending messages to the input queue."""

from __future__ import annotations

import uuid
from typing import Any

from pipeline.clients import aws
from pipeline.errors import Rejected, SettingsError
from pipeline.job_ids import input_job_id
from pipeline.payload import to_json, validated
from pipeline.settings import get_settings
from pipeline.sqs.queues import MAX_MESSAGE_BYTES

#: The message attribute of a redriven dead letter: its SQS MessageId, from which the job's id derives.
REDRIVEN_FROM = "redriven_from"


def send_message(payload: dict[str, Any], queue_url: str | None = None) -> str:
    """Send `payload` as JSON to the input queue.

    On a FIFO queue each message gets a random group and deduplication id, so equal messages become separate jobs.

    Args:
        payload: the message (contract, section 1).
        queue_url: the URL of the queue, by default the setting QUEUE_URL.

    Returns:
        The id of the job, which commands, pages, results and postbacks use.

    Raises:
        Rejected: the payload breaks a rule of the contract. Nothing was sent.
        SettingsError: there is neither a `queue_url` nor a QUEUE_URL.
        RetryableError: SQS was unreachable or refused the request. It may still have the message.
    """
    return input_job_id(_send(payload, queue_url, uuid.uuid4().hex))


def send_again(payload: dict[str, Any], letter: str) -> None:
    """Send the payload of a dead letter that `ingest` rejected. All messages of one dead letter are one job.

    Args:
        payload: the message.
        letter: the SQS MessageId of the dead letter.

    Raises:
        PipelineError, SettingsError: as `send_message`.
    """
    redriven_from = {"DataType": "String", "StringValue": letter}
    _send(payload, None, letter, MessageAttributes={REDRIVEN_FROM: redriven_from})


def _send(payload: dict[str, Any], queue_url: str | None, deduplication_id: str, **more: Any) -> str:
    """Send the payload, and return its MessageId."""
    body = to_json(validated(payload, get_settings()))
    if (size := len(body.encode())) > MAX_MESSAGE_BYTES:
        raise Rejected("too_large", f"The message has {size} bytes; SQS accepts at most {MAX_MESSAGE_BYTES}.")
    url = queue_url or get_settings().queue_url
    if not url:
        raise SettingsError("QUEUE_URL is not set. Set it to the URL of the input queue, or pass queue_url.")
    request: dict[str, Any] = {"QueueUrl": url, "MessageBody": body, **more}
    if url.endswith(".fifo"):
        request |= {"MessageGroupId": uuid.uuid4().hex, "MessageDeduplicationId": deduplication_id}
    with aws.aws_errors("sqs", "send the message"):
        return aws.sqs().send_message(**request)["MessageId"]
