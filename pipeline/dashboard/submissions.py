"""Jobs submitted on the page, and their results.

Like `submit --wait`, the dashboard receives results on its own queue, `<namespace>_submit_dashboard`, which it creates
with the first job. Each dashboard deletes only the results of its own jobs; all others expire within an hour. If there
is a job log, the pages prefer it because it contains more than the result.
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

#: Maximum number of jobs to keep.
MAX_JOBS = 200

#: In seconds: retention of a result, visibility timeout of the queue, duration of a poll, pause after a failed poll.
RETENTION, VISIBILITY_TIMEOUT, POLL, ERROR_PAUSE = 3600, 5, 10, 2.0


class Submissions:
    """The jobs that this process has submitted."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Submission] = OrderedDict()
        self._lock = threading.Lock()
        self._receiver: threading.Thread | None = None

    def get(self, job_id: str) -> Submission | None:
        """Return a job, or None if it was not submitted here or is too old."""
        return self._jobs.get(job_id)

    def latest(self) -> list[Submission]:
        """Return all jobs, latest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def send(self, url: str, *, folder: str = "", postback_url: str = "") -> Submission:
        """Send one image through the pipeline.

        Raises:
            SubmitError: The job is invalid or could not be sent.
        """
        if _scheme(url) not in {"http", "https"}:
            raise SubmitError("The URL of an image must start with http:// or https://.")
        fields = {"bucket_name": folder, "postback_url": postback_url}
        common: Payload = {name: value for name, value in fields.items() if value}
        submissions = submit.read_submissions([url], {}, common)
        name = f"{get_settings().queue_namespace}_submit_dashboard"
        submit.validate(submissions, waiting_on=name)
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
            while len(self._jobs) > MAX_JOBS:
                self._jobs.popitem(last=False)
            if not (self._receiver and self._receiver.is_alive()):
                self._receiver = threading.Thread(
                    target=self._receive_results, args=[queue_url], name="receive results", daemon=True
                )
                self._receiver.start()
        return job

    def _waiting(self) -> bool:
        since = time.time() - RETENTION
        with self._lock:
            waiting = any(job.status == "sent" and job.sent_at > since for job in self._jobs.values())
            if not waiting:
                self._receiver = None  # the next job starts another thread
            return waiting

    def _receive_results(self, queue_url: str) -> None:
        """Receive results while any job waits for one."""
        while self._waiting():
            try:
                for message in _receive(queue_url):
                    self._settle(queue_url, message)
            except PipelineError as error:
                logger.warning("could not receive results: %s", error)
                time.sleep(ERROR_PAUSE)
            except Exception as error:
                logger.warning("a result could not be read (%s)", type(error).__name__)
                time.sleep(ERROR_PAUSE)

    def _settle(self, queue_url: str, message: MessageTypeDef) -> None:
        attribute = message.get("MessageAttributes", {}).get("job_id")
        job = self._jobs.get(attribute.get("StringValue", "")) if attribute else None
        if job is None:  # of another dashboard, or of a job that is not recorded yet; SQS delivers it again
            return
        if job.status == "sent":
            job.ended(json.loads(message["Body"]))
        with aws.aws_errors("sqs", "delete a result"):
            aws.sqs().delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])


def _scheme(url: str) -> str:
    """Return the scheme of a URL; empty if the URL is invalid."""
    try:
        parts = urlsplit(url)
        return parts.scheme if parts.hostname else ""
    except ValueError:
        return ""


def _result_queue(name: str) -> str:
    """Return the URL of the queue for results, created if it is missing."""
    keep: dict[QueueAttributeNameType, str] = {
        "MessageRetentionPeriod": str(RETENTION),
        "VisibilityTimeout": str(VISIBILITY_TIMEOUT),
    }
    with aws.aws_errors("sqs", f"create the queue {name} for the results"):
        return find_queue(aws.sqs(), name) or aws.sqs().create_queue(QueueName=name, Attributes=keep)["QueueUrl"]


def _receive(queue_url: str) -> list[MessageTypeDef]:
    with aws.aws_errors("sqs", "receive results"):
        response = aws.sqs().receive_message(
            QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=POLL, MessageAttributeNames=["job_id"]
        )
    return response.get("Messages", [])
