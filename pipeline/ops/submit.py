"""Sends jobs from the command line, and waits for their results."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from pipeline.clients import aws, mongo
from pipeline.errors import PipelineError, Rejected, RetryableError
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.monitoring.next_attempt import NextAttempt, next_attempt
from pipeline.net.http_errors import shown
from pipeline.payload import IMAGE_FIELDS, Payload, parse_json, validated
from pipeline.producer import send_message
from pipeline.settings import get_settings

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import QueueAttributeNameType
    from mypy_boto3_sqs.type_defs import MessageTypeDef

#: Number of threads that send jobs.
SENDERS = 8

#: Maximum time to wait for results, in seconds.
MAX_WAIT = 12 * 3600.0

#: Duration of one poll (SQS's maximum), and the pause after a failed poll, both in seconds.
LONG_POLL, ERROR_PAUSE = 20, 1.0

#: Duration of one poll while the progress of jobs is shown, in seconds, and the number of jobs whose progress is read.
POLL_WITH_PROGRESS, MAX_WATCHED = 2, 5

SubmissionStatus = Literal["unsent", "sent", "done", "failed", "no_result"]


class SubmitError(Exception):
    """The request is invalid, and nothing was sent. The text has one line for each problem."""


@dataclass
class Submission:
    """One job, from the command line to its result."""

    payload: Payload
    origin: str  #: `example.org/cover.jpg` or `Line 3 of jobs.jsonl`
    status: SubmissionStatus = "unsent"
    job_id: str | None = None
    result: Payload | None = None  #: as sent to a redirect queue
    error: PipelineError | None = None  #: why it was not sent
    sent_at: float = field(default=0.0, repr=False)
    seconds: float | None = None  #: from sending to the result

    def ended(self, result: Payload) -> None:
        """Record the result."""
        failed = any(f"{name}_error" in result for name in IMAGE_FIELDS)
        self.status, self.result, self.seconds = "failed" if failed else "done", result, time.time() - self.sent_at

    def as_dict(self) -> dict[str, Any]:
        """Return the job as the command prints it in JSON."""
        line: dict[str, Any] = {"job_id": self.job_id, "status": self.status}
        if self.seconds is not None:
            line["seconds"] = round(self.seconds, 3)
        if self.error:
            line["error"] = {"code": self.error.code, "message": self.error.message}
        return line | ({"result": self.result} if self.result else {})


def read_submissions(urls: Sequence[str], lines: Mapping[str, str], common: Payload) -> list[Submission]:
    """Make the submissions from URLs and from lines of JSON.

    Args:
        urls: Images; each becomes one job.
        lines: Full payloads as JSON, by their line of the file.
        common: Fields for all jobs; the fields of a line take precedence.

    Raises:
        SubmitError: A line is not a JSON object, or there is nothing to submit.
    """
    submissions = [Submission(common | {"image_url": url}, shown(url)) for url in urls]
    wrong = [f"{url!r} is not an http or https URL." for url in urls if not re.match(r"https?://[^/]", url, re.I)]
    for origin, line in lines.items():
        try:
            payload = parse_json(line)
        except (ValueError, RecursionError) as error:
            why = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
            wrong.append(f"{origin} is not JSON: {why}.")
            continue
        if isinstance(payload, dict):
            submissions.append(Submission(common | payload, origin))
        else:
            wrong.append(f"{origin} is not a JSON object.")
    if wrong:
        raise SubmitError("\n".join(wrong))
    if not submissions:
        raise SubmitError("There is nothing to submit: give URLs, or a file with --file.")
    return submissions


def validate(submissions: Sequence[Submission], *, waiting_on: str | None = None) -> None:
    """Validate all jobs before any is sent.

    Args:
        submissions: The jobs; their payloads become validated ones.
        waiting_on: The name of a queue that is to receive all results, if any.

    Raises:
        SubmitError: At least one job is invalid.
    """
    wrong = []
    for each in submissions:
        if waiting_on and each.payload.get("redirect_queue"):
            wrong.append(f"{each.origin}: its redirect_queue receives the result, so --wait cannot wait for it.")
            continue
        if waiting_on:
            each.payload = each.payload | {"redirect_queue": waiting_on}
        try:
            each.payload = validated(each.payload, get_settings())
        except Rejected as error:
            help_ = " On the command line: --postback-url, --redirect-queue or --wait."
            wrong.append(f"{each.origin}: {error.message}{help_ if error.code == 'no_destination' else ''}")
    if wrong:
        raise SubmitError("\n".join(wrong))


def send(submissions: Sequence[Submission], on_sent: Callable[[Submission], None]) -> None:
    """Send each job: to QUEUE_URL if it is set, otherwise directly to the fetch stage. Call `on_sent` after each."""
    put = _through_queue() if get_settings().queue_url else _to_fetch()

    def send_one(each: Submission) -> Submission:
        each.sent_at = time.time()
        try:
            each.job_id, each.status = put(each.payload), "sent"
        except PipelineError as error:
            each.error = error
        return each

    pool = ThreadPoolExecutor(SENDERS)
    try:
        for each in pool.map(send_one, submissions):
            on_sent(each)
    finally:
        pool.shutdown(cancel_futures=True)


def _through_queue() -> Callable[[Payload], str]:
    aws.sqs()  # created before several threads need it
    return send_message


def _to_fetch() -> Callable[[Payload], str]:
    from dramatiq.errors import BrokerError  # noqa: PLC0415 - slow to import, and not needed with QUEUE_URL

    from pipeline.actors import fetch_image  # noqa: PLC0415 - builds the broker

    def put(payload: Payload) -> str:
        try:
            return fetch_image.send(payload).message_id
        except BrokerError as error:
            raise RetryableError("sqs_error", f"Could not send to the fetch stage: {error}") from error

    return put


def queue_name() -> str:
    """Generate the name of a queue that only this command uses."""
    return f"{get_settings().queue_namespace}_submit_{secrets.token_hex(6)}"


@contextmanager
def result_queue(name: str) -> Iterator[str]:
    """Create a queue, yield its URL, and delete the queue at the end."""
    keep: dict[QueueAttributeNameType, str] = {
        "MessageRetentionPeriod": str(14 * 86400),
        "VisibilityTimeout": str(int(MAX_WAIT)),
    }
    with aws.aws_errors("sqs", f"create the queue {name} for the results"):
        url = aws.sqs().create_queue(QueueName=name, Attributes=keep)["QueueUrl"]
    try:
        yield url
    finally:
        with aws.aws_errors("sqs", f"delete the queue {name} of the results"):
            aws.sqs().delete_queue(QueueUrl=url)


def wait_for_results(
    submissions: Sequence[Submission],
    url: str,
    timeout: float,
    on_end: Callable[[Submission], None],
    on_wait: Callable[[Submission, NextAttempt], None] | None = None,
) -> None:
    """Wait for the results of all sent jobs.

    Args:
        submissions: The jobs.
        url: The queue of the results.
        timeout: Maximum time to wait, in seconds.
        on_end: Called for each job with its result, and for each without one at the end.
        on_wait: Called for jobs that wait for another attempt, where there is a job log.
    """
    poll = POLL_WITH_PROGRESS if on_wait and get_settings().jobs_mongo_url else LONG_POLL
    waiting = {each.job_id: each for each in submissions if each.status == "sent"}
    deadline = time.monotonic() + timeout
    while waiting and (left := deadline - time.monotonic()) > 0:
        try:
            received = _receive(url, min(poll, ceil(left)))
        except RetryableError:  # it may succeed before the deadline
            time.sleep(min(ERROR_PAUSE, left))
            continue
        # Messages are not deleted one by one: they stay hidden until the whole queue is deleted.
        for message in received:
            attribute = message.get("MessageAttributes", {}).get("job_id")
            if attribute and (each := waiting.pop(attribute.get("StringValue"), None)):
                each.ended(json.loads(message["Body"]))
                on_end(each)
        if on_wait and poll == POLL_WITH_PROGRESS:
            _report_waits(list(waiting.values())[:MAX_WATCHED], on_wait)
    for each in waiting.values():
        each.status = "no_result"
        on_end(each)


def _report_waits(waiting: Sequence[Submission], on_wait: Callable[[Submission, NextAttempt], None]) -> None:
    """Report what jobs wait for. The job log is only an extra here, so its errors are ignored."""
    with suppress(PipelineError), mongo.within():
        for each in waiting:
            history = job_log_reader.history(each.job_id or "")
            if history and (attempt := next_attempt(history)):
                on_wait(each, attempt)


def _receive(url: str, seconds: int) -> list[MessageTypeDef]:
    with aws.aws_errors("sqs", "receive results"):
        response = aws.sqs().receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=seconds, MessageAttributeNames=["job_id"]
        )
    return response.get("Messages", [])


def numbered_lines(file: TextIO) -> dict[str, str]:
    """Read the lines of a JSON Lines file that are not blank, by their origin, such as `Line 3 of jobs.jsonl`.

    Raises:
        SubmitError: The file is not UTF-8.
    """
    name = "standard input" if file.name == "<stdin>" else Path(file.name).name
    try:
        lines = file.read().split("\n")  # not splitlines: JSON strings may contain other line ends
    except UnicodeDecodeError:
        raise SubmitError(f"{name} is not UTF-8 text.") from None
    return {f"Line {number} of {name}": line for number, line in enumerate(lines, 1) if line.strip()}
