"""The SQS queues: how each is set up, and the making of those that are missing.

Sources of the limits: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

#: Seconds a received message is hidden: what a dead worker holds is taken over by another after this time.
VISIBILITY_TIMEOUT = 45

#: Receives after which SQS itself moves a message to the dead letters: the backstop behind all handling of ours.
MAX_RECEIVES = 10

#: Seconds SQS keeps a message: its longest, 14 days.
RETENTION = 14 * 86400

#: Bytes of body and attributes together.
MAX_MESSAGE_BYTES = 1024 * 1024

MISSING_QUEUE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})


@dataclass(frozen=True)
class QueueSpec:
    """One queue: its full name, and the full name of its dead-letter queue where it has one."""

    name: str
    dead_letters: str | None = None

    def attributes(self, dead_letters_arn: str | None) -> dict[QueueAttributeNameType, str]:
        """The attributes SQS should hold for it."""
        wanted: dict[QueueAttributeNameType, str] = {
            "MessageRetentionPeriod": str(RETENTION),
            "VisibilityTimeout": str(VISIBILITY_TIMEOUT),
            "MaximumMessageSize": str(MAX_MESSAGE_BYTES),
            "ReceiveMessageWaitTimeSeconds": "20",
        }
        if dead_letters_arn:
            policy = {"deadLetterTargetArn": dead_letters_arn, "maxReceiveCount": MAX_RECEIVES}
            wanted["RedrivePolicy"] = json.dumps(policy)
        return wanted


def find_queue(client: SQSClient, name: str) -> str | None:
    """The URL of the queue `name`, or None where there is none."""
    try:
        return client.get_queue_url(QueueName=name)["QueueUrl"]
    except ClientError as error:
        if error.response["Error"]["Code"] in MISSING_QUEUE:
            return None
        raise


def ensure_queue(client: SQSClient, spec: QueueSpec) -> str:
    """The URL of the queue, made with its dead-letter queue if it is missing. One that exists is left as it is."""
    if url := find_queue(client, spec.name):
        return url
    arn = queue_arn(client, ensure_queue(client, QueueSpec(spec.dead_letters))) if spec.dead_letters else None
    try:
        return client.create_queue(QueueName=spec.name, Attributes=spec.attributes(arn))["QueueUrl"]
    except ClientError:
        if url := find_queue(client, spec.name):  # another process made it meanwhile
            return url
        raise


def queue_arn(client: SQSClient, url: str) -> str:
    """The ARN of the queue at `url`."""
    return client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def differences(client: SQSClient, spec: QueueSpec, url: str) -> dict[QueueAttributeNameType, str]:
    """The attributes in which the queue at `url` is not as `spec` says, with the values they should have."""
    arn = None
    if spec.dead_letters and (dead_letters_url := find_queue(client, spec.dead_letters)):
        arn = queue_arn(client, dead_letters_url)
    present = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return {name: value for name, value in spec.attributes(arn).items() if not _same(present.get(name), value)}


def _same(present: str | None, wanted: str) -> bool:
    if present is None or not wanted.startswith("{"):
        return present == wanted
    return _numbers_as_text(json.loads(present)) == _numbers_as_text(json.loads(wanted))


def _numbers_as_text(policy: Mapping[str, object]) -> dict[str, str]:
    """A redrive policy to compare: SQS takes the count as number or text and gives it back as it likes."""
    return {key: str(value) for key, value in policy.items()}
