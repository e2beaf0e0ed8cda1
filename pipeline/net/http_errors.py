"""One exchange with a server that a stranger named: its limits, and its failures as errors of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from requests import RequestException, Response
from requests.exceptions import ChunkedEncodingError, ContentDecodingError, InvalidHeader, SSLError, Timeout
from urllib3.exceptions import HTTPError, ReadTimeoutError

from pipeline.errors import PermanentError, PipelineError, Retry, RetryableError
from pipeline.net.guard import Budget, keeping_to
from pipeline.text import printable


@contextmanager
def http_errors(url: str, retry: Retry, budget: Budget) -> Iterator[None]:
    """What the guarded session does inside keeps to `budget`, and what goes wrong there becomes an error of ours.

    Raises:
        PermanentError: `bad_url`, `blocked_address`, `bad_encoding`.
        RetryableError: `timeout`, `unreachable`, `tls_error`, `incomplete`; it follows `retry`.
    """
    try:
        with keeping_to(budget):
            yield
    except (RequestException, HTTPError, ValueError) as error:
        raise _translate(error, url, retry) from None  # the text of the original holds the query


_UNREACHABLE = (RetryableError, "unreachable", "{} could not be reached.")

#: What to make of an error: the first kind that fits. A bad URL is a ValueError in all the libraries; so is an answer
#: with two lengths.
_FAILURES: dict[type[Exception] | tuple[type[Exception], ...], tuple[type[PipelineError], str, str]] = {
    InvalidHeader: _UNREACHABLE,
    ValueError: (PermanentError, "bad_url", "{} is not an http or https URL that can be used."),
    ContentDecodingError: (PermanentError, "bad_encoding", "{} does not send the encoding that it names."),
    SSLError: (RetryableError, "tls_error", "{} could not be reached over TLS that can be trusted."),
    (Timeout, ReadTimeoutError): (RetryableError, "timeout", "{} did not answer in time."),
    ChunkedEncodingError: (RetryableError, "incomplete", "{} broke off before the end."),
    Exception: _UNREACHABLE,
}


def _translate(error: Exception, url: str, retry: Retry) -> PipelineError:
    if error.args and isinstance(error.args[0], ReadTimeoutError):  # how requests tells of a stalled body
        error = error.args[0]
    kind, code, sentence = next(ours for theirs, ours in _FAILURES.items() if isinstance(error, theirs))
    message = sentence.format(shown(url))
    return RetryableError(code, message, retry=retry) if kind is RetryableError else kind(code, message)


def refusal(url: str, response: Response, later: Retry | None, longest: float = 0) -> PipelineError:
    """The error `http_<status>`: permanent, or where `later` is given, retryable after the wait that was asked for."""
    status = response.status_code
    phrase = f" {HTTPStatus(status).phrase}" if status in list(HTTPStatus) else ""  # not the server's own words
    code, message = f"http_{status}", f"{shown(url)} answered {status}{phrase}."
    if later is None:
        return PermanentError(code, message)
    return RetryableError(code, message, retry=later, retry_after=_retry_after(response, longest))


def _retry_after(response: Response, longest: float) -> float | None:
    """The seconds that a Retry-After header asks for, as a number or a date, at most `longest`; None without one."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,15}", value):
        return min(float(value), longest)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), longest)


def shown(url: str) -> str:
    """`url` as host and path: what logs and errors may hold of it (contract, section 7). Never raises."""
    try:
        parts = urlsplit(url)
        # A password with an unescaped slash passes for a port and a path: http://user:12/34@host/
        clear = parts.port is None or "@" in parts.netloc or "@" not in parts.path
    except ValueError:
        clear = False
    text = f"{parts.hostname}{parts.path}" if clear and parts.hostname else "the URL"
    return printable(text)[:200]
