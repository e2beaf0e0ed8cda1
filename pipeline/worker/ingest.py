"""Ingest: moves raw JSON from the input queue, standard or FIFO, to the fetch stage.

It receives up to ten messages at a time, and deletes a message only after its hand-over is confirmed. Unacceptable
messages go to `<namespace>_ingest_dlq` with a reason, so no message is lost and none is retried forever.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dramatiq.errors import BrokerConnectionError

from pipeline.backoff import Backoff
from pipeline.clients import aws
from pipeline.errors import Rejected, RetryableError
from pipeline.events import Event, Outcome, emit
from pipeline.job import Job, input_job_id
from pipeline.metrics import count_hand_over
from pipeline.payload import parse_json
from pipeline.producer import REDRIVEN_FROM
from pipeline.settings import get_settings
from pipeline.sqs.leases import FIRST_BACKOFF, LAST_BACKOFF
from pipeline.sqs.queues import LONG_POLL, VISIBILITY_TIMEOUT
from pipeline.sqs.wire import MAX_BATCH, Reason, describe
from pipeline.storage.staging import staging
from pipeline.worker.registry import our_broker
from pipeline.worker.stage_actor import message_of

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

logger = logging.getLogger(__name__)


class Ingest:
    """Moves messages from the queue at `queue_url` to the fetch stage until `stop`.

    Attributes:
        asking_since: When the request that SQS has not answered yet began, in monotonic seconds; None if there is none.
            It is minus infinity until the first answer.
        taken_at: When it last received messages.
    """

    def __init__(self, queue_url: str) -> None:
        self._queue_url = queue_url
        self._stopping = threading.Event()
        self.asking_since: float | None = -math.inf
        self.taken_at: datetime | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Finish the current batch and receive no more."""
        self._stopping.set()

    def run(self) -> None:
        """Move batches until `stop`, and retry after errors of SQS."""
        backoff = Backoff(FIRST_BACKOFF, LAST_BACKOFF)
        while not self._stopping.is_set():
            self.asking_since = self.asking_since or time.monotonic()
            try:
                self.take_batch()
                self.asking_since = None
                backoff.reset()
            except Exception as error:  # whatever failed, SQS redelivers the messages
                wait = backoff.next()
                logger.warning("ingest: a batch failed (%s). Next attempt in %.1f s.", describe(error), wait)
                self._stopping.wait(wait)

    def take_batch(self) -> int:
        """Receive up to ten messages and hand them over; returns how many were handed over or buried."""
        received = (
            aws.sqs()
            .receive_message(
                QueueUrl=self._queue_url,
                MaxNumberOfMessages=MAX_BATCH,
                WaitTimeSeconds=LONG_POLL,
                VisibilityTimeout=VISIBILITY_TIMEOUT,
                MessageAttributeNames=[REDRIVEN_FROM],
            )
            .get("Messages", [])
        )
        self.taken_at = datetime.now(UTC) if received else self.taken_at
        if self._stopping.is_set():
            self._release(received)
            return 0
        done = self._hand_over(received)
        self._delete(done)
        return len(done)

    def _hand_over(self, received: Sequence[MessageTypeDef]) -> list[MessageTypeDef]:
        """Hand messages over; returns the messages that reached the fetch stage or the dead-letter queue."""
        done, jobs = [], []
        for message in received:
            try:
                jobs.append((message, message_of(job_in(message))))
            except Rejected as error:
                if self._bury(message, error):
                    done.append(message)
            except RetryableError as error:
                logger.warning("ingest: message %s will be received again: %s", message["MessageId"], error)
            except Exception as error:
                unforeseen = Rejected("bad_message", f"The message cannot be handled ({type(error).__name__}).")
                if self._bury(message, unforeseen):
                    done.append(message)
        failures = our_broker().enqueue_many([job for _, job in jobs])
        for (message, _), failure in zip(jobs, failures, strict=True):
            if failure is None:
                done.append(message)
                count_hand_over()
            else:
                logger.warning("ingest: message %s will be received again: %s", message["MessageId"], failure)
        return done

    def _bury(self, message: MessageTypeDef, error: Rejected) -> bool:
        """Send a rejected message to the dead-letter queue; returns whether SQS confirmed it."""
        job_id = input_job_id(message["MessageId"])
        emit(Event("ingest", job_id, Outcome.REJECTED, code=error.code, message=error.message))
        try:
            our_broker().bury("ingest", message["Body"], Reason(error.code, error.message, stage="ingest"))
        except (BrokerConnectionError, RetryableError) as failure:
            logger.warning("ingest: message %s will be received again: %s", message["MessageId"], failure)
            return False
        return True

    def _delete(self, messages: Sequence[MessageTypeDef]) -> None:
        if messages:
            response = aws.sqs().delete_message_batch(
                QueueUrl=self._queue_url,
                Entries=[{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(messages)],
            )
            for failure in response.get("Failed", []):
                logger.warning("ingest: a message was handed over but not deleted: %s", failure["Code"])

    def _release(self, messages: Sequence[MessageTypeDef]) -> None:
        if messages:
            aws.sqs().change_message_visibility_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {"Id": str(i), "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 0}
                    for i, m in enumerate(messages)
                ],
            )


def job_in(message: MessageTypeDef) -> Job:
    """Return the job that an input message asks for.

    A redelivered message gives the same job, and so do all messages of one redriven letter.

    Raises:
        Rejected: The message does not contain an acceptable payload.
        RetryableError: Its payload is long, and staging failed.
    """
    try:
        payload: Any = parse_json(message["Body"])
    except (ValueError, RecursionError):
        raise Rejected("not_json", "The message is not valid JSON.") from None
    attributes: Any = message.get("MessageAttributes", {})
    letter = attributes.get(REDRIVEN_FROM, {}).get("StringValue")
    return Job.accept(
        payload,
        job_id=input_job_id(letter or message["MessageId"]),
        settings=get_settings(),
        stage_payload=staging().put,
    )
