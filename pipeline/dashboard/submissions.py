"""Jobs that were sent from the page, and what came of them.

Like `submit --wait` it asks for results on a queue of its own, `<namespace>_submit_dashboard`, which it makes at the
first job. A dashboard takes the results of its own jobs alone; what nobody takes expires within the hour. Where there
is a job log, it tells more than the result does.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.clients import aws
from pipeline.errors import PipelineError
from pipeline.ops import submit
from pipeline.ops.submit import Submission, SubmitError
from pipeline.payload import Payload
from pipeline.settings import get_settings
from pipeline.sqs.queues import find_queue

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import QueueAttributeNameType
    from mypy_boto3_sqs.type_defs import MessageTypeDef

logger = logging.getLogger(__name__)

#: Jobs that are remembered.
REMEMBERED = 200

#: Seconds that a result is kept for, that one which nobody took is hidden, of one poll, and between polls while SQS is
#: in trouble.
KEPT, HIDDEN, POLL, TROUBLE_PAUSE = 3600, 5, 10, 2.0


class Submissions:
    """What this process has sent, by the jobs' ids."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Submission] = OrderedDict()
        self._lock = threading.Lock()
        self._taking: threading.Thread | None = None

    def get(self, job_id: str) -> Submission | None:
        """The job, if it was sent from here and is not forgotten."""
        return self._jobs.get(job_id)

    def latest(self) -> list[Submission]:
        """All of them, the latest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def send(self, url: str, *, folder: str = "", postback_url: str = "") -> Submission:
        """Send one image through the pipeline.

        Raises:
            SubmitError: it is not acceptable, or could not be sent; its text says why.
        """
        if _scheme(url) not in {"http", "https"}:
            raise SubmitError("An image's URL starts with http:// or https://.")
        wanted = {"bucket_name": folder, "postback_url": postback_url}
        common: Payload = {name: value for name, value in wanted.items() if value}
        submissions = submit.read([url], {}, common)
        name = f"{get_settings().queue_namespace}_submit_dashboard"
        submit.check(submissions, waiting_on=name)
        (job,) = submissions
        try:
            queue_url = _result_queue(name)
        except PipelineError as error:
            raise SubmitError(error.message) from error
        submit.send(submissions, lambda _: None)
        if job.error or job.job_id is None:
            raise SubmitError(job.error.message if job.error else "It could not be sent.")
        with self._lock:
            self._jobs[job.job_id] = job
            while len(self._jobs) > REMEMBERED:
                self._jobs.popitem(last=False)
            if not (self._taking and self._taking.is_alive()):
                self._taking = threading.Thread(target=self._take, args=[queue_url], name="take results", daemon=True)
                self._taking.start()
        return job

    def _waiting(self) -> bool:
        since = time.time() - KEPT
        with self._lock:
            waiting = any(job.status == "sent" and job.sent_at > since for job in self._jobs.values())
            if not waiting:
                self._taking = None  # the next job starts another
            return waiting

    def _take(self, queue_url: str) -> None:
        """Take results for as long as a job is without one."""
        while self._waiting():
            try:
                for message in _receive(queue_url):
                    self._settle(queue_url, message)
            except PipelineError as error:
                logger.warning("could not take results: %s", error)
                time.sleep(TROUBLE_PAUSE)
            except Exception as error:
                logger.warning("a result could not be read (%s)", type(error).__name__)
                time.sleep(TROUBLE_PAUSE)

    def _settle(self, queue_url: str, message: MessageTypeDef) -> None:
        attribute = message.get("MessageAttributes", {}).get("job_id")
        job = self._jobs.get(attribute.get("StringValue", "")) if attribute else None
        if job is None:  # another dashboard's, or one whose sending is just being noted: it comes again
            return
        if job.status == "sent":
            job.ended(json.loads(message["Body"]))
        with aws.aws_errors("sqs", "delete a result"):
            aws.sqs().delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])


def _scheme(url: str) -> str:
    """The scheme of a URL; empty where it is none."""
    try:
        parts = urlsplit(url)
        return parts.scheme if parts.hostname else ""
    except ValueError:
        return ""


def _result_queue(name: str) -> str:
    """The URL of the queue for results, made if it is missing."""
    keep: dict[QueueAttributeNameType, str] = {"MessageRetentionPeriod": str(KEPT), "VisibilityTimeout": str(HIDDEN)}
    with aws.aws_errors("sqs", f"create the queue {name} for the results"):
        return find_queue(aws.sqs(), name) or aws.sqs().create_queue(QueueName=name, Attributes=keep)["QueueUrl"]


def _receive(queue_url: str) -> list[MessageTypeDef]:
    with aws.aws_errors("sqs", "receive results"):
        response = aws.sqs().receive_message(
            QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=POLL, MessageAttributeNames=["job_id"]
        )
    return response.get("Messages", [])
