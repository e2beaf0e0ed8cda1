"""Errors of requests to untrusted servers, translated to the pipeline's errors, within a budget."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from requests import RequestException, Response
from requests.exceptions import (
    ChunkedEncodingError,
    ConnectTimeout,
    ContentDecodingError,
    InvalidHeader,
    SSLError,
    Timeout,
)
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, ReadTimeoutError

from pipeline.errors import (
    Code,
    NoConnection,
    NoRequest,
    PermanentError,
    PipelineError,
    Retry,
    RetryableError,
    http_code,
)
from pipeline.net.guard import Budget, limited_to
from pipeline.text import printable, shorten

#: Maximum length of a shown URL, in characters.
MAX_SHOWN = 200


@contextmanager
def http_errors(url: str, retry: Retry, budget: Budget) -> Iterator[None]:
    """Apply `budget` to the requests of the guarded session inside the block, and translate their errors.

    Args:
        url: The URL for the error messages.
        retry: The delays that a retryable error follows.
        budget: The limits on time and bytes.

    Raises:
        PermanentError: `bad_url`, `blocked_address`, `bad_encoding`.
        NoConnection: `timeout`, `unreachable`, `tls_error`.
        RetryableError: `timeout`, `unreachable`, `incomplete`, after a connection was opened.
    """
    try:
        with limited_to(budget):
            yield
    except (RequestException, HTTPError, ValueError) as error:
        translated = _translate(error, url, retry)
        if isinstance(translated, NoConnection) and budget.expired:  # earlier redirects may have used up the time
            translated = RetryableError(translated.code, translated.message, retry=retry)
        raise translated from None  # the original error quotes the query string


_COULD_NOT_BE_REACHED = "{} could not be reached."
_UNREACHABLE: Final[tuple[type[PipelineError], Code, str]] = (RetryableError, "unreachable", _COULD_NOT_BE_REACHED)
_NO_ANSWER = "{} did not answer in time."

#: The translation of each error type; the first match counts. All libraries raise ValueError for a bad URL, and
#: InvalidHeader, a ValueError too, for a response with two lengths.
_TRANSLATIONS: dict[type[Exception] | tuple[type[Exception], ...], tuple[type[PipelineError], Code, str]] = {
    InvalidHeader: _UNREACHABLE,
    ValueError: (NoRequest, "bad_url", "{} is not a usable http or https URL."),
    ContentDecodingError: (PermanentError, "bad_encoding", "{} did not send the content encoding that it declared."),
    SSLError: (NoConnection, "tls_error", "{} could not be reached over trusted TLS."),
    ConnectTimeout: (NoConnection, "timeout", _NO_ANSWER),
    NewConnectionError: (NoConnection, "unreachable", _COULD_NOT_BE_REACHED),
    (Timeout, ReadTimeoutError): (RetryableError, "timeout", _NO_ANSWER),
    ChunkedEncodingError: (RetryableError, "incomplete", "{} closed the connection before the end of the response."),
    Exception: _UNREACHABLE,
}


def _translate(error: Exception, url: str, retry: Retry) -> PipelineError:
    inner = error.args[0] if error.args else None
    if isinstance(inner, ReadTimeoutError):  # requests reports a stalled body this way
        error = inner
    elif isinstance(inner, MaxRetryError) and isinstance(inner.reason, NewConnectionError):  # refused, or no such name
        error = inner.reason
    kind, code, sentence = next(ours for theirs, ours in _TRANSLATIONS.items() if isinstance(error, theirs))
    message = sentence.format(shown(url))
    return kind(code, message, retry=retry) if issubclass(kind, RetryableError) else kind(code, message)


def refusal(url: str, response: Response, later: Retry | None, longest: float = 0) -> PipelineError:
    """Return the error `http_<status>` of a response.

    Args:
        url: The URL for the message.
        response: The response.
        later: The delays that a retry follows; None makes the error permanent.
        longest: The longest Retry-After to obey, in seconds.
    """
    status = response.status_code
    phrase = f" {HTTPStatus(status).phrase}" if status in list(HTTPStatus) else ""  # never quotes the server
    code, message = http_code(status), f"{shown(url)} answered {status}{phrase}."
    if later is None:
        return PermanentError(code, message)
    return RetryableError(code, message, retry=later, retry_after=_retry_after(response, longest))


def _retry_after(response: Response, longest: float) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date, up to `longest`; None without a valid header."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,15}", value):
        return min(float(value), longest)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), longest)


def shown(url: str, limit: int = MAX_SHOWN) -> str:
    """Return the host, port and path of `url`, which logs and errors may show (contract, section 7). Never raises.

    A text longer than `limit` ends in "…".
    """
    try:
        parts = urlsplit(url)
        # A password with an unescaped slash looks like a port and a path: http://user:12/34@host/
        clear = parts.port is None or "@" in parts.netloc or "@" not in parts.path
    except ValueError:
        clear = False
    if not clear or not parts.hostname:
        return "the URL"
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    host = parts.hostname if parts.port is None else f"{name}:{parts.port}"
    return shorten(printable(f"{host}{parts.path}"), limit)
