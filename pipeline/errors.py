"""What can go wrong, as a small tree.

    PipelineError          has a code, and one sentence that may be shown to anybody
    ├── PermanentError     trying again cannot help: ends this source or delivery at once
    │   ├── Rejected       the input message itself is unusable: nothing is processed
    │   └── StagedMissing  bytes that should wait in staging are gone: the job starts again, once
    └── RetryableError     trying again may help, after a wait that its `retry` names
        └── PutOff         nothing was tried: it was not this one's turn

Codes are lower-case words for machines (`http_404`, `too_large`); they never change their meaning. Sentences are for
people, name what was wrong and never hold a credential, a query string or a message body.
"""

from __future__ import annotations

from enum import StrEnum

from typing_extensions import TypedDict  # pydantic wants this one on Python 3.11


class ErrorInfo(TypedDict):
    """The public form of an error, as results carry it (contract, section 4)."""

    stage: str
    code: str
    message: str


class Retry(StrEnum):
    """Which delays a retry follows; the settings hold one list of seconds for each."""

    SOURCE = "source"  #: FETCH_RETRY_DELAYS: the source's own server is in trouble
    SERVICE = "service"  #: RETRY_DELAYS: S3, SQS, staging, or this machine is
    POSTBACK = "postback"  #: POSTBACK_RETRY_DELAYS: the receiver of a postback is


class PipelineError(Exception):
    """An error with a code for machines and a sentence for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def info(self, stage: str) -> ErrorInfo:
        """This error as the result of a job in `stage` carries it."""
        return {"stage": stage, "code": self.code, "message": self.message}


def without_frames(error: PipelineError) -> PipelineError:
    """The error alone: the frames that its traceback and causes hold keep whatever their functions worked on."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


class PermanentError(PipelineError):
    """Trying again cannot help."""


class Rejected(PermanentError):
    """The input message is unusable; it is kept in a dead-letter queue with this reason."""


class StagedMissing(PermanentError):
    """Bytes that should wait in staging are gone: expired, or removed because the job has already ended."""

    def __init__(self, key: str) -> None:
        super().__init__("staged_missing", f"What should wait in staging is gone (key {key!r}).")


class RetryableError(PipelineError):
    """Trying again may help.

    `retry` names the list of delays to follow. `retry_after`, in seconds, is the least wait the other side asked for.
    """

    def __init__(
        self, code: str, message: str, *, retry: Retry = Retry.SERVICE, retry_after: float | None = None
    ) -> None:
        super().__init__(code, message)
        self.retry = retry
        self.retry_after = retry_after


class Snoozed(RetryableError):
    """It was not this one's turn: nothing was tried, and no attempt is counted. It comes again in `wait` seconds."""

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
