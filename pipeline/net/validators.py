"""Validators of downloads: when a host may be asked whether a source has changed, and when its answer is trusted.

https://www.rfc-editor.org/rfc/rfc9110#section-8.8 and #section-13
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from pipeline.job import Validators

#: Entity tags that are sent back. Many hosts leave out the quotes.
_ETAG = re.compile(r"[\x21-\x7e]{1,256}")

#: A file may change twice in a second, which Last-Modified cannot show.
LEAST_AGE = timedelta(seconds=1)


def validators_of(url: str, headers: Mapping[str, str], now: datetime | None = None) -> Validators | None:
    """Return the usable validators of a complete response from `url`, or None if it has none.

    A Last-Modified that lies in the future, or less than a second before the response, is not usable. A response that
    varies by everything has no validators.
    """
    if "*" in headers.get("Vary", ""):
        return None
    etag = headers.get("ETag", "").strip()
    found = Validators(
        url,
        etag=etag if _ETAG.fullmatch(etag) else "",
        modified=_modified(headers, now or datetime.now(UTC)),
    )
    return found if found.etag or found.modified else None


def conditions(validators: Validators | None, url: str) -> dict[str, str]:
    """Return the headers of a conditional request for `url`; none if the validators belong to another URL."""
    if validators is None or validators.url != url:
        return {}
    if validators.etag:
        return {"If-None-Match": validators.etag}
    return {"If-Modified-Since": validators.modified}


def confirms(validators: Validators, headers: Mapping[str, str]) -> bool:
    """Return whether the headers of a 304 agree with the validators that were sent.

    Some caches answer 304 with the entity tag of other bytes.
    """
    etag = headers.get("ETag", "").strip()
    return not (etag and validators.etag) or _opaque(etag) == _opaque(validators.etag)


def _opaque(etag: str) -> str:
    """Return the part of an entity tag that a weak comparison looks at."""
    return etag.removeprefix("W/").strip('"')


def _modified(headers: Mapping[str, str], now: datetime) -> str:
    text = headers.get("Last-Modified", "").strip()
    modified, sent = _date(text), _date(headers.get("Date", ""))
    if modified is None or modified > min(sent or now, now) - LEAST_AGE:
        return ""
    return text


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError):
        return None
    return date.replace(tzinfo=date.tzinfo or UTC)
