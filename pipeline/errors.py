"""The tree of errors.

    PipelineError          a code, and one sentence that may be shown to anyone
    ├── PermanentError     a retry cannot help: the source or delivery fails at once
    │   ├── Rejected       the input message is unusable: nothing is processed
    │   └── StagedMissing  staged bytes are gone: the job starts again, once
    └── RetryableError     a retry may help, after a delay from the list that `retry` names
        ├── NoConnection   no connection to the server could be opened
        └── Snoozed        nothing was attempted: the job waits for a free slot

Codes are lower-case words for machines (`http_404`, `too_large`), and their meaning never changes. Sentences are for
people. They name the cause and never contain a credential, a query string or a message body.
"""

from __future__ import annotations

from enum import StrEnum

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


class PipelineError(Exception):
    """An error with a code for machines and a sentence for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
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


class Rejected(PermanentError):
    """The input message is unusable. It goes to a dead-letter queue with this reason."""


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
        self, code: str, message: str, *, retry: Retry = Retry.SERVICE, retry_after: float | None = None
    ) -> None:
        super().__init__(code, message)
        self.retry = retry
        self.retry_after = retry_after


class NoConnection(RetryableError):
    """No connection to the server could be opened: DNS, TCP or TLS failed. No path of a URL can cause this."""


class Snoozed(RetryableError):
    """Nothing was attempted, and no attempt is counted. The job is retried in `wait` seconds."""

    def __init__(self, code: str, message: str, wait: float) -> None:
        super().__init__(code, message, retry=Retry.SOURCE, retry_after=wait)
        self.wait = wait


class SettingsError(Exception):
    """An environment variable has an unusable value.

    Attributes:
        args: One sentence for each wrong value; `str()` returns the first.
    """

    def __str__(self) -> str:
        return str(self.args[0])
