"""The door for raw JSON: from the input queue, standard or FIFO, to the fetch stage.

Receives in tens, hands each message over, and deletes it only once the hand-over is confirmed. What is no acceptable
message goes to `<namespace>_ingest_dlq` with its reason: nothing is lost, and nothing loops.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dramatiq.errors import BrokerConnectionError

from pipeline.backoff import Backoff
from pipeline.clients import aws
from pipeline.errors import Rejected, RetryableError
from pipeline.events import Event, Outcome, emit
from pipeline.job import Job, input_job_id
from pipeline.metrics import count_hand_over
from pipeline.payload import parse_json
from pipeline.settings import get_settings
from pipeline.sqs.leases import FIRST_BACKOFF, LAST_BACKOFF
from pipeline.sqs.queues import VISIBILITY_TIMEOUT
from pipeline.sqs.wire import Reason, describe
from pipeline.storage.staging import staging
from pipeline.worker.stage_actor import message_of, our_broker

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

logger = logging.getLogger(__name__)

#: Messages of one request.
BATCH = 10

#: Seconds of one poll.
LONG_POLL = 20

#: Seconds a received message is hidden: far longer than a hand-over takes, and soon over if this process dies.
VISIBILITY = VISIBILITY_TIMEOUT


class Ingest:
    """Takes messages from `queue_url` until `stop`."""

    def __init__(self, queue_url: str) -> None:
        self._queue_url = queue_url
        self._stopping = threading.Event()
        self.asking_since: float | None = -math.inf  #: since when SQS owes an answer: the first one always; None: none

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Finish the batch in hand, and take no more."""
        self._stopping.set()

    def run(self) -> None:
        """Take batches until told to stop. Trouble with SQS is waited out."""
        backoff = Backoff(FIRST_BACKOFF, LAST_BACKOFF)
        while not self._stopping.is_set():
            self.asking_since = self.asking_since or time.monotonic()
            try:
                self.take_batch()
                self.asking_since = None
                backoff.reset()
            except Exception as error:  # whatever it is, the messages come back, and may fare better
                wait = backoff.next()
                logger.warning("ingest: trouble with a batch (%s); again in %.1f s.", describe(error), wait)
                self._stopping.wait(wait)

    def take_batch(self) -> int:
        """Receive up to ten messages and hand them over; returns how many are done and deleted."""
        received = (
            aws.sqs()
            .receive_message(
                QueueUrl=self._queue_url,
                MaxNumberOfMessages=BATCH,
                WaitTimeSeconds=LONG_POLL,
                VisibilityTimeout=VISIBILITY,
            )
            .get("Messages", [])
        )
        if self._stopping.is_set():
            self._give_back(received)
            return 0
        done = self._hand_over(received)
        self._delete(done)
        return len(done)

    def _hand_over(self, received: Sequence[MessageTypeDef]) -> list[MessageTypeDef]:
        """The messages that are safe elsewhere: at the fetch stage, or among the dead letters."""
        done, jobs = [], []
        for message in received:
            try:
                jobs.append((message, message_of(job_in(message))))
            except Rejected as error:
                if self._bury(message, error):
                    done.append(message)
            except RetryableError as error:
                logger.warning("ingest: message %s comes back: %s", message["MessageId"], error)
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
                logger.warning("ingest: message %s comes back: %s", message["MessageId"], failure)
        return done

    def _bury(self, message: MessageTypeDef, error: Rejected) -> bool:
        """Whether a refused message is among the dead letters."""
        job_id = input_job_id(message["MessageId"])
        emit(Event("ingest", job_id, Outcome.REJECTED, code=error.code, message=error.message))
        try:
            our_broker().bury("ingest", message["Body"], Reason(error.code, error.message, stage="ingest"))
        except (BrokerConnectionError, RetryableError) as failure:
            logger.warning("ingest: message %s comes back: %s", message["MessageId"], failure)
            return False
        return True

    def _delete(self, messages: Sequence[MessageTypeDef]) -> None:
        if messages:
            response = aws.sqs().delete_message_batch(
                QueueUrl=self._queue_url,
                Entries=[{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(messages)],
            )
            for failure in response.get("Failed", []):
                logger.warning("ingest: a message was handed over, but not deleted: %s", failure["Code"])

    def _give_back(self, messages: Sequence[MessageTypeDef]) -> None:
        if messages:
            aws.sqs().change_message_visibility_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {"Id": str(i), "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 0}
                    for i, m in enumerate(messages)
                ],
            )


def job_in(message: MessageTypeDef) -> Job:
    """The job that an input message asks for; the same one each time SQS delivers it.

    Raises:
        Rejected: it asks for none.
        RetryableError: its payload is long, and staging is in trouble.
    """
    try:
        payload: Any = parse_json(message["Body"])
    except (ValueError, RecursionError):
        raise Rejected("not_json", "The message is not valid JSON.") from None
    return Job.accept(
        payload,
        job_id=input_job_id(message["MessageId"]),
        own_queues=get_settings().own_queues,
        stage_payload=staging().put,
    )
