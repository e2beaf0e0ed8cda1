"""Downloads of source images from untrusted URLs, with limits on time, bytes and redirects."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import urljoin

import requests

from pipeline.errors import NoRequest, PermanentError, Retry, RetryableError, is_trouble
from pipeline.job import Validators
from pipeline.metrics import FETCHED_BYTES
from pipeline.net.download_memory import Share
from pipeline.net.guard import Budget, credentials
from pipeline.net.http_errors import http_errors, refusal, shown
from pipeline.net.session import fetch_session
from pipeline.net.validators import conditions, confirms, validators_of
from pipeline.payload import MAX_URL_LENGTH
from pipeline.settings import get_settings

MAX_REDIRECTS = 5

#: The longest Retry-After that is obeyed, in seconds (contract, section 4).
LONGEST_RETRY_AFTER = 900.0

#: Images gain nothing from a content encoding. WebP and AVIF are not named (contract, section 5), because a host that
#: negotiates would convert the original to them, and directories take JPEG and PNG.
HEADERS = {
    "Accept": "image/jpeg, image/png, image/gif;q=0.9, image/*;q=0.8, */*;q=0.5",
    "Accept-Encoding": "identity",
}

#: The share of both time limits that a hasty download has: 3 s and 15 s by default. Most hosts need far less.
HASTE = 0.25

#: Bytes a second that a hasty download must have received on average, from its limit of a single wait on. A host that
#: drips is given up after 3 s instead of 15, and a large source of a slow but honest host goes on.
LEAST_RATE = 32_768

#: How many bytes are read at a time. Most covers are smaller.
CHUNK_BYTES = 262_144

Slot = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class _Limits:
    """Limits of one download: seconds for each wait, seconds in all, bytes of the body, and memory for them."""

    timeout: float
    total: float
    max_bytes: int
    share: Share


@dataclass(frozen=True)
class Download:
    """The answer of a host."""

    image: bytes | None  #: None if the host confirmed that the source has not changed
    validators: Validators | None = None  #: for the next conditional request
    content_type: str = ""  #: of the image, as the host wrote it; empty if it did not


class _Distrusted(Exception):
    """A 304 does not agree with the validators that were sent."""


def download_if_changed(
    url: str,
    slot: Slot,
    *,
    share: Share,
    hasty: bool = False,
    validators: Validators | None = None,
) -> Download:
    """Download the bytes at `url`, following up to 5 redirects, unless its host confirms that they have not changed.

    FETCH_TIMEOUT limits the connecting and each wait for bytes, FETCH_TOTAL_TIMEOUT limits the whole download, and
    MAX_SOURCE_BYTES limits the bytes after any content encoding. Content-Length is not trusted.

    Args:
        url: The untrusted URL.
        slot: Returns a context manager for a URL. Each request, redirects included, runs inside one. Errors of `slot`
            are passed on.
        share: The memory for the download.
        hasty: Whether a quarter of the time must be enough, at `LEAST_RATE` or more. If it is not, the error is a
            `timeout`, so that a retry can take all of it.
        validators: The validators of an earlier download. They are sent to the URL that they came from, and nowhere
            else. If the answer does not agree with them, the bytes are requested again without them.

    Raises:
        PermanentError: `bad_url`, `blocked_address`, `blocked_port`, `http_<status>`, `too_large`, `too_slow`,
            `too_many_redirects`, `empty`, `bad_encoding`.
        RetryableError: `timeout`, `unreachable`, `tls_error`, `incomplete`, `http_<status>` of 408, 425, 429 and 5xx.
        Snoozed: `memory_busy`.
    """
    if len(url) > MAX_URL_LENGTH:
        raise NoRequest("bad_url", f"The URL is longer than {MAX_URL_LENGTH} characters.")
    settings = get_settings()
    haste = HASTE if hasty else 1.0
    limits = _Limits(
        timeout=settings.fetch_timeout * haste,
        total=settings.fetch_total_timeout * haste,
        max_bytes=settings.max_source_bytes,
        share=share,
    )
    # Headers and chunk sizes may add a quarter to the body. More is an attack, such as a gzip stream without content.
    budget = Budget(
        seconds=limits.total,
        wire_bytes=limits.max_bytes * 5 // 4 + 2**20,
        least_rate=LEAST_RATE if hasty else 0.0,
        grace=limits.timeout,
    )
    try:
        try:
            return _follow(url, slot, budget, limits, validators)
        except _Distrusted:
            return _follow(url, slot, budget, limits, None)
    except RetryableError as error:
        if budget.overdrawn:
            raise _too_large(url, limits.max_bytes) from None
        if budget.expired and error.code == "timeout" and not hasty:
            raise PermanentError("too_slow", f"{shown(url)} took longer than {limits.total:g} seconds.") from None
        raise


def _follow(start: str, slot: Slot, budget: Budget, limits: _Limits, validators: Validators | None) -> Download:
    session, url, auth = fetch_session(), start, None
    for _ in range(1 + MAX_REDIRECTS):
        with slot(url), http_errors(start, Retry.SOURCE, budget):
            auth = credentials(url) or auth
            asked = conditions(validators, url)
            headers = HEADERS | asked
            with session.request("GET", url, headers=headers, auth=auth, timeout=limits.timeout) as response:
                target = session.get_redirect_target(response)
                if target is None:
                    return _answer(url, response, limits, validators if asked else None)
            before, url = url, urljoin(url, target)
            if session.should_strip_auth(before, url):
                auth = None
    raise PermanentError("too_many_redirects", f"{shown(start)} redirects more than {MAX_REDIRECTS} times.")


def _answer(url: str, response: requests.Response, limits: _Limits, sent: Validators | None) -> Download:
    if sent and response.status_code == 304:
        if not confirms(sent, response.headers):
            raise _Distrusted
        _ = response.content  # it has none, and the connection can be used again
        return Download(None, sent)
    content_type = response.headers.get("Content-Type", "")
    return Download(_body(url, response, limits), validators_of(url, response.headers), content_type)


def _body(url: str, response: requests.Response, limits: _Limits) -> bytes:
    status = response.status_code
    if not 200 <= status < 300:
        later = Retry.SOURCE if is_trouble(status) else None
        raise refusal(url, response, later, LONGEST_RETRY_AFTER)
    length = response.headers.get("Content-Length", "")
    promised = min(int(length), limits.max_bytes) if re.fullmatch("[0-9]{1,15}", length) else 0
    limits.share.promise(promised)
    body = BytesIO()
    for chunk in response.iter_content(CHUNK_BYTES):
        FETCHED_BYTES.inc(len(chunk))
        size = body.tell() + len(chunk)
        if size > limits.max_bytes:
            raise _too_large(url, limits.max_bytes)
        limits.share.grow(size)
        body.write(chunk)
    if not body.tell():
        raise PermanentError("empty", f"{shown(url)} is empty.")
    return body.getvalue()  # shares the buffer, where joined chunks would need the memory twice


def _too_large(url: str, max_bytes: int) -> PermanentError:
    return PermanentError("too_large", f"{shown(url)} is larger than {max_bytes:,} bytes.")
