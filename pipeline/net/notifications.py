"""Delivery of results: a POST to a URL, or a message to an SQS queue."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from standardwebhooks import Webhook
from urllib3.exceptions import HTTPError

from pipeline.clients import aws
from pipeline.errors import PermanentError, Retry
from pipeline.net.guard import Budget
from pipeline.net.http_errors import http_errors, refusal
from pipeline.net.session import postback_session
from pipeline.settings import get_settings
from pipeline.sqs.queues import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

logger = logging.getLogger(__name__)

#: The longest Retry-After of a receiver that is obeyed, in seconds: a day, like the longest of our own delays. SQS
#: delays a message by 15 minutes at most, so each day costs a hundred hops, and receivers may ask at every attempt.
LONGEST_RETRY_AFTER = 86400.0

#: Bytes of a response body that are read so that the connection can be reused, and bytes of the whole response.
MAX_RESPONSE_BODY = 16_384
MAX_RESPONSE = 262_144

#: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html
QUEUE_NAME = re.compile(r"(?=.{1,80}\Z)[A-Za-z0-9_-]+(\.fifo)?")

SECRET_FIELD = "postback_secret_key"  # noqa: S105 - the name of a field


def _json(result: Mapping[str, Any]) -> str:
    # ASCII, because SQS refuses U+FFFE and U+FFFF, and UTF-8 cannot encode lone surrogates.
    return json.dumps(result, separators=(",", ":"))


def postback(job_id: str, url: str, result: Mapping[str, Any]) -> None:
    """POST `result` and the secret to `url`, with `job_id` as the webhook-id (contract, section 4).

    POSTBACK_TIMEOUT limits the connecting and each wait; twice that limits the whole request.

    Raises:
        PermanentError: `http_410`, `bad_url`, `blocked_address`.
        RetryableError: `http_<status>` for all other statuses except 2xx, `timeout`, `unreachable`, `tls_error`,
            `incomplete`. Its `retry_after` is the receiver's Retry-After.
    """
    settings = get_settings()
    secret = {} if settings.shared_secret is None else {SECRET_FIELD: settings.shared_secret}
    body = _json({**result, **secret})
    headers = {"Content-Type": "application/json", "webhook-id": job_id, **_signature(job_id, body)}
    budget = Budget(seconds=2 * settings.postback_timeout, wire_bytes=MAX_RESPONSE)
    timeout = settings.postback_timeout
    with (
        http_errors(url, Retry.POSTBACK, budget),
        postback_session().request("POST", url, data=body.encode(), headers=headers, timeout=timeout) as response,
    ):
        with suppress(HTTPError):  # the status decides, not the body
            response.raw.read(MAX_RESPONSE_BODY)
        if not 200 <= response.status_code < 300:
            raise refusal(url, response, Retry.POSTBACK if response.status_code != 410 else None, LONGEST_RETRY_AFTER)


def _signature(job_id: str, body: str) -> dict[str, str]:
    """Return the headers of signatures made now (https://www.standardwebhooks.com), or none without a secret.

    There is one signature for each secret, so that a secret can be rotated without a gap.
    """
    secrets = get_settings().signing_secrets
    if not secrets:
        return {}
    now = datetime.now(UTC)
    signatures = [Webhook(secret).sign(job_id, now, body) for secret in secrets]
    return {"webhook-timestamp": str(int(now.timestamp())), "webhook-signature": " ".join(signatures)}


def redirect(job_id: str, queue_name: str, result: Mapping[str, Any]) -> bool:
    """Send `result`, without the secret, to the SQS queue with exactly this name; returns False if it does not exist.

    Raises:
        PermanentError: `result_too_large`.
        RetryableError: `sqs_error`.
    """
    body = _json({key: value for key, value in result.items() if key != SECRET_FIELD})
    message: dict[str, Any] = {
        "MessageBody": body,
        "MessageAttributes": {"job_id": {"DataType": "String", "StringValue": job_id}},
    }
    if queue_name.endswith(".fifo"):
        message |= {"MessageDeduplicationId": job_id, "MessageGroupId": job_id}
    if len(body) + len(f"job_idString{job_id}".encode()) > MAX_MESSAGE_BYTES:
        raise _too_large(queue_name)
    with aws.aws_errors("sqs", f"send the result to the queue {queue_name[:80]!r}"):
        sent = _send(queue_name, message)
    if not sent:
        logger.warning("job %s is not redirected, because the queue %r does not exist", job_id, queue_name[:100])
    return sent


def _send(queue_name: str, message: dict[str, Any]) -> bool:
    sqs = aws.sqs()
    queues = _queue_urls(sqs)
    for _ in range(2):  # a known queue may have been deleted, and created again
        url = queues.url(queue_name)
        if url is None:
            return False
        try:
            sqs.send_message(QueueUrl=url, **message)
            return True
        except sqs.exceptions.QueueDoesNotExist:
            queues.forget(queue_name)
        except ClientError as error:
            if "must be shorter than" in str(error):  # the queue's owner has set a lower limit
                raise _too_large(queue_name) from None
            raise
    return False


def _too_large(queue_name: str) -> PermanentError:
    return PermanentError("result_too_large", f"The result is too large for the queue {queue_name[:100]!r}.")


class _QueueUrls:
    """A cache of queue URLs by name, emptied after `calls_to_update_list_sqs_queues` look-ups.

    It has no lock: what threads do at the same time costs a look-up more or less.
    """

    def __init__(self, sqs: SQSClient) -> None:
        self._sqs = sqs
        self._urls: dict[str, str] = {}
        self._look_ups = 0

    def url(self, name: str) -> str | None:
        if self._look_ups >= get_settings().calls_to_update_list_sqs_queues:
            self._urls.clear()
            self._look_ups = 0
        self._look_ups += 1
        url = self._urls.get(name)
        if url is None and QUEUE_NAME.fullmatch(name):
            with suppress(self._sqs.exceptions.QueueDoesNotExist):
                url = self._urls[name] = self._sqs.get_queue_url(QueueName=name)["QueueUrl"]
        return url

    def forget(self, name: str) -> None:
        self._urls.pop(name, None)


@lru_cache(maxsize=1)
def _queue_urls(sqs: SQSClient) -> _QueueUrls:
    return _QueueUrls(sqs)
