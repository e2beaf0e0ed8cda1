"""Renditions for the page, read from the bucket by this process, so that it may be private.

Only keys that the service itself makes are read: below S3_PREFIX, and of the form that the contract's section 3 gives.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pipeline.images.formats import format_by_extension
from pipeline.settings import get_settings
from pipeline.storage import s3 as objects

_KEY = re.compile(r"(?:[A-Z0-9_.-]{1,128}|custom)/[0-9a-f]{32}_[0-9]{1,5}[xX][0-9]{1,5}(\.(?:jpeg|png|gif|webp))")


def key_of(url: str) -> str | None:
    """The key of the rendition with that public URL; None where it is no rendition of ours.

    A URL that was made under another PUBLIC_BASE_URL is known by its path.
    """
    prefix = f"{get_settings().s3_prefix.strip('/')}/"
    try:
        path = urlsplit(url).path
    except ValueError:
        return None
    _, found, rest = path.rpartition(f"/{prefix}")
    return f"{prefix}{rest}" if found and _KEY.fullmatch(rest) else None


def read(key: str) -> tuple[bytes, str]:
    """A rendition's bytes and its content type.

    Raises:
        S3Error: it is not there, or S3 is in trouble.
    """
    match = _KEY.search(key)
    extension = match[1] if match else ".jpeg"
    data = objects.get(get_settings().s3_bucket, key, doing="read a rendition")
    return data, format_by_extension(extension).content_type
