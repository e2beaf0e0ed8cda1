"""The tree of errors.

    PipelineError          a code, and one sentence that may be shown to anyone
    ├── Dropped            an operator dropped the job: it ends, without a dead letter
    ├── PermanentError     a retry cannot help: the source or delivery fails at once
    │   ├── Rejected       the input message is unusable: nothing is processed
    │   ├── NoRequest      the URL must not or cannot be requested
    │   └── StagedMissing  staged bytes are gone: the job starts again, once
    └── RetryableError     a retry may help, after a delay from the list that `retry` names
        ├── NoConnection   no connection to the server could be opened
        └── Snoozed        nothing was attempted: the job waits for a free slot

Codes are lower-case words for machines (`http_404`, `too_large`), and their meaning never changes: `CODES` has all of
them. Sentences are for people. They name the cause and never contain a credential, a query string or a message body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NewType

from typing_extensions import TypedDict  # pydantic needs this one on Python 3.11


class ErrorInfo(TypedDict):
    """An error as it appears in results (contract, section 4)."""

    stage: str
    code: str
    message: str


class Retry(StrEnum):
    """The list of delays that a retry follows. Each is a setting, in seconds."""

    SOURCE = "source"  #: FETCH_RETRY_DELAYS: the server of the source fails
    SERVICE = "service"  #: RETRY_DELAYS: S3, SQS, staging or this machine fails
    POSTBACK = "postback"  #: POSTBACK_RETRY_DELAYS: the receiver of a postback fails


class Fault(StrEnum):
    """The side that has to change something before a job with an error can succeed."""

    SOURCE = "source"  #: the owner of the image: its URL, its bytes or a definite answer of its server
    SERVER = "server"  #: the server of the source or of the receiver, or the network on the way to it
    OPERATOR = "operator"  #: the operator, if the refused or dropped request is wanted
    PRODUCER = "producer"  #: the sender of the message
    SERVICE = "service"  #: AWS, MongoDB or the staging folder
    WORKER = "worker"  #: this service or the machine that it runs on
    NOBODY = "nobody"  #: there was no free slot


class Ending(StrEnum):
    """The way in which an attempt ends that met an error."""

    PERMANENT = "permanent"
    RETRIED = "retried"
    SNOOZED = "snoozed"
    DROPPED = "dropped"
    REJECTED = "rejected"


@dataclass(frozen=True)
class CodeFacts:
    """The facts about an error code.

    Attributes:
        stages: Where it occurs, as docs/errors.md shows it.
        fault: The side that has to change something.
        ending: The way in which the attempt ends, for docs/errors.md. The class of the raised error decides it, and the
            unit tests compare the two.
        meaning: When it occurs, for docs/errors.md.
    """

    stages: str
    fault: Fault
    ending: Ending
    meaning: str


# fmt: off
#: Every code but `http_<status>`, so that mypy finds an error that is raised with another one.
Name = Literal[
    "bad_url", "bad_encoding", "blocked_address", "blocked_port", "timeout", "unreachable", "tls_error",
    "incomplete", "host_down", "too_slow", "host_busy", "host_resting", "too_many_slow", "memory_busy",
    "too_many_redirects", "empty", "too_large", "not_an_image", "unsupported_format", "broken_image",
    "staged_missing", "s3_error", "sqs_error", "staging_error", "mongo_error", "aws_error", "out_of_memory",
    "time_limit", "internal_error", "worker_crashed", "result_too_large", "not_json", "not_an_object", "too_deep",
    "bad_field", "no_image", "no_destination", "bad_postback_url", "bad_redirect_queue", "bad_job", "bad_message",
    "bad_proof", "message_too_large", "unknown_version", "skipped", "failed", "dropped",
]
# fmt: on
HttpCode = NewType("HttpCode", str)
Code = Name | HttpCode


#: When each code but `http_<status>` occurs, by stages, fault and ending.
_MEANINGS: Final[Mapping[tuple[str, Fault, Ending], Mapping[Name, str]]] = {
    ("fetch, notify", Fault.SOURCE, Ending.PERMANENT): {
        "bad_url": "The URL is not a usable http or https URL.",
        "bad_encoding": "The answer did not have the Content-Encoding that it declared.",
    },
    ("fetch, notify", Fault.OPERATOR, Ending.PERMANENT): {
        "blocked_address": "The URL leads to an address that is not public.",
    },
    ("fetch", Fault.OPERATOR, Ending.PERMANENT): {
        "blocked_port": "The URL, or a redirect, asks for a port that `ALLOWED_PORTS` does not list.",
    },
    ("fetch", Fault.OPERATOR, Ending.DROPPED): {
        "dropped": "An operator [dropped](operating.md#drop-jobs-that-wait) the job while it waited for fetch.",
    },
    ("fetch, notify", Fault.SERVER, Ending.RETRIED): {
        "timeout": "The server did not answer in time.",
        "unreachable": "No connection to the server could be opened, or it broke.",
        "tls_error": "The server could not be reached over trusted TLS.",
        "incomplete": "The server closed the connection before the end of its response.",
        "host_down": "The host's circuit has been open for more than an hour. The host is probed from time to time.",
    },
    ("fetch", Fault.SERVER, Ending.PERMANENT): {
        "too_slow": "The download exceeded `FETCH_TOTAL_TIMEOUT`.",
    },
    ("fetch, notify", Fault.NOBODY, Ending.SNOOZED): {
        "host_busy": "The host has `FETCH_MAX_PER_HOST` or `NOTIFY_MAX_PER_HOST` requests in progress.",
        "host_resting": "The host's [circuit](how-it-works.md#host-limiter) is open for 30 s to 5 min.",
        "too_many_slow": "Enough threads of the process wait for [hosts that may be slow]"
        "(how-it-works.md#host-limiter).",
    },
    ("fetch", Fault.NOBODY, Ending.SNOOZED): {
        "memory_busy": "The downloads of the process hold `FETCH_MEMORY_BYTES`.",
    },
    ("fetch", Fault.SOURCE, Ending.PERMANENT): {
        "too_many_redirects": "The download had more than 5 redirects.",
        "empty": "The download had no bytes.",
    },
    ("fetch, resize", Fault.SOURCE, Ending.PERMANENT): {
        "too_large": "The image exceeds `MAX_SOURCE_BYTES`, `MAX_SOURCE_PIXELS` or `MAX_DECODED_PIXELS`, or [costs "
        "too much](images.md#refused-images) to decode: too many parts, too much memory or time.",
        "not_an_image": "The bytes are not an image, for example a web page.",
        "unsupported_format": "The bytes are SVG, PDF, HEIC or another unsupported format, or whole but of a "
        "[kind](images.md#refused-images) that this service does not decode.",
        "broken_image": "The image is truncated or damaged, or crashed its decoder twice.",
    },
    ("resize, upload, notify", Fault.WORKER, Ending.PERMANENT): {
        "staged_missing": "Bytes are missing from staging or damaged, and were so again after the job restarted once "
        "at fetch.",
    },
    ("all", Fault.SERVICE, Ending.RETRIED): {
        "s3_error": "S3 refused a request or could not be reached.",
        "sqs_error": "SQS refused a request or could not be reached.",
        "staging_error": "The staging folder refused a request or could not be reached.",
    },
    ("notify", Fault.SERVICE, Ending.RETRIED): {
        "mongo_error": "MongoDB refused the write-back of a sweep's job, or could not be reached. Only the write-back "
        "is retried.",
    },
    ("commands", Fault.SERVICE, Ending.PERMANENT): {
        "aws_error": "`image-pipeline provision` could not change a queue or the bucket.",
    },
    ("all", Fault.WORKER, Ending.RETRIED): {
        "out_of_memory": "This host has too little memory.",
        "time_limit": "The stage took longer than its time limit.",
        "internal_error": "The service has a defect. The log has its traceback.",
    },
    ("all", Fault.WORKER, Ending.PERMANENT): {
        "worker_crashed": "Every worker that ran the job died, the last two in quarantine, while they ran "
        "nothing else.",
    },
    ("notify", Fault.PRODUCER, Ending.PERMANENT): {
        "result_too_large": "The result exceeds the redirect queue's limit.",
    },
    ("ingest, fetch", Fault.PRODUCER, Ending.REJECTED): {
        "not_json": "The message is not valid JSON.",
        "not_an_object": "The message is not a JSON object.",
        "too_deep": "The message is nested too deeply.",
        "bad_field": "A field of the message is not a string.",
        "no_image": "The message contains no image.",
        "no_destination": "The message has no destination.",
        "bad_postback_url": "`postback_url` is not an http or https URL, or not https although `POSTBACK_HTTPS_ONLY` "
        "is on.",
        "bad_redirect_queue": "`redirect_queue` does not name a queue that may be used.",
    },
    ("all", Fault.PRODUCER, Ending.REJECTED): {
        "bad_job": "The message on the queue is not a job of that stage.",
        "bad_message": "The message on the queue is for an actor of another queue, or has other arguments or options "
        "than the service sends.",
        "bad_proof": "The job does not prove that this service made it: it was [forged](security.md#forged-jobs), or "
        "`JOB_KEY` does not contain its key any more.",
        "message_too_large": "The stage did its work, but SQS does not accept the job that follows, because it is "
        "larger than 1 MiB. Only jobs that the service did not make become so large.",
    },
    ("all", Fault.WORKER, Ending.REJECTED): {
        "unknown_version": "No worker understood the version of the job for 14 days.",
        "skipped": "A dramatiq middleware that was added to the workers skipped the message. The service itself has "
        "none that does.",
        "failed": "A dramatiq middleware that was added to the workers rejected the message.",
    },
}

#: The facts about each code but `http_<status>`. docs/errors.md is compared with them.
CODES: Final[Mapping[str, CodeFacts]] = {
    code: CodeFacts(*group, meaning) for group, meanings in _MEANINGS.items() for code, meaning in meanings.items()
}

#: The facts about `http_408`, `http_425`, `http_429` and `http_5xx`.
HTTP_TROUBLE: Final = CodeFacts(
    *("fetch, notify", Fault.SERVER, Ending.RETRIED),
    "The server answered 408, 425, 429 or 5xx. Its Retry-After is obeyed, up to 15 min for a source and a day for a "
    "postback.",
)

#: The facts about every other status.
HTTP_REFUSAL: Final = CodeFacts(
    *("fetch, notify", Fault.SOURCE, Ending.PERMANENT),
    "The server gave any other answer than 2xx, or a redirect without a usable target. A missing image gives "
    "`http_404` or `http_410`, a forbidden one `http_401` or `http_403`. A postback is retried, unless it is 410.",
)

#: The facts about a code of another release.
UNKNOWN: Final = CodeFacts("all", Fault.WORKER, Ending.PERMANENT, "Another release knows the code.")

#: Codes of a server that took too long.
SLOW: Final = frozenset[Code]({"timeout", "too_slow"})

#: Statuses below 500 of a server in trouble (RFC 9110, RFC 8470, RFC 6585).
_TROUBLE: Final = frozenset({408, 425, 429})


def http_code(status: int) -> Code:
    """Return the code of an answer other than 2xx."""
    return HttpCode(f"http_{status}")


def is_trouble(status: int) -> bool:
    """Return whether a server that answers with this status may answer with another one later."""
    return status in _TROUBLE or 500 <= status <= 599


def facts_of(code: str) -> CodeFacts:
    """Return the facts about a code of this or another release."""
    if status := re.fullmatch(r"http_([0-9]{1,9})", code):
        return HTTP_TROUBLE if is_trouble(int(status[1])) else HTTP_REFUSAL
    return CODES.get(code, UNKNOWN)


class PipelineError(Exception):
    """An error with a code for machines and a sentence for people."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code: Code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def info(self, stage: str) -> ErrorInfo:
        """Return the error as it appears in the result of a job that failed in `stage`."""
        return {"stage": stage, "code": self.code, "message": self.message}


def without_frames(error: PipelineError) -> PipelineError:
    """Return `error` without its traceback and without the errors before it, whose tracebacks are removed too.

    Their frames would keep alive everything that their functions worked on. An error that passed a context manager is
    part of a cycle, so that only a garbage collection would free them.
    """
    each: BaseException | None = error
    while each is not None:
        before, each.__context__ = each.__context__, None
        each.__traceback__ = None
        each = before
    error.__cause__ = None
    return error


class PermanentError(PipelineError):
    """A retry cannot help."""


class Dropped(PipelineError):
    """An operator dropped the job while it waited. If `silent`, it needs no result."""

    def __init__(self, *, silent: bool) -> None:
        super().__init__("dropped", "An operator dropped this job while it waited.")
        self.silent = silent


class Rejected(PermanentError):
    """The input message is unusable. It goes to a dead-letter queue with this reason."""


class NoRequest(PermanentError):
    """The URL must not or cannot be requested. The error shows nothing about its host."""


class StagedMissing(PermanentError):
    """Staged bytes are gone: they expired, or were deleted because the job has already ended."""

    def __init__(self, key: str) -> None:
        super().__init__("staged_missing", f"The staged bytes are gone (key {key!r}).")


class RetryableError(PipelineError):
    """A retry may help.

    Attributes:
        retry: the list of delays that the retry follows.
        retry_after: the shortest wait, in seconds, that the other side asked for, or None.
    """

    def __init__(
        self, code: Code, message: str, *, retry: Retry = Retry.SERVICE, retry_after: float | None = None
    ) -> None:
        super().__init__(code, message)
        self.retry = retry
        self.retry_after = retry_after


class NoConnection(RetryableError):
    """No connection to the server could be opened: DNS, TCP or TLS failed. No path of a URL can cause this."""


class Snoozed(RetryableError):
    """Nothing was attempted, and no attempt is counted. The job is retried in `wait` seconds."""

    def __init__(self, code: Code, message: str, wait: float) -> None:
        super().__init__(code, message, retry=Retry.SOURCE, retry_after=wait)
        self.wait = wait


class SettingsError(Exception):
    """An environment variable has an unusable value.

    Attributes:
        args: One sentence for each wrong value; `str()` returns the first.
    """

    def __str__(self) -> str:
        return str(self.args[0])
