"""Reads renditions from the bucket for the pages, so that the bucket can be private.

Only keys that the service itself creates are read: under S3_PREFIX, in the form of section 3 of the contract.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pipeline.images.details.placeholder import placeholder_png
from pipeline.images.encoding import format_by_extension
from pipeline.settings import get_settings
from pipeline.storage import s3

_KEY = re.compile(r"(?:[A-Z0-9_.-]{1,128}|custom)/[0-9a-f]{32}_[0-9]{1,5}[xX][0-9]{1,5}\.(?:jpeg|png|gif|webp|avif)")


def key_of(url: str) -> str | None:
    """Return the key of the rendition with a public URL, or None if the URL has another form.

    Only the path counts, so that URLs with an earlier PUBLIC_BASE_URL work too.
    """
    prefix = f"{get_settings().s3_prefix.strip('/')}/"
    try:
        path = urlsplit(url).path
    except ValueError:
        return None
    _, found, rest = path.rpartition(f"/{prefix}")
    return f"{prefix}{rest}" if found and _KEY.fullmatch(rest) else None


def serve(url: str | None, max_age: int) -> Response:
    """Serve the rendition with a public URL; browsers may cache it for `max_age` seconds.

    Raises:
        HTTPException: 404, the rendition does not exist, or the URL has another form.
        S3Error: S3 fails.
    """
    key = key_of(url) if url else None
    if key is None:
        raise HTTPException(404, "This picture does not exist.")
    try:
        data = s3.get(get_settings().s3_bucket, key, doing="read a rendition")
    except s3.S3Error as error:
        if error.is_absent:
            raise HTTPException(404, error.message) from None
        raise
    content_type = format_by_extension(Path(key).suffix).content_type
    return Response(data, media_type=content_type, headers={"Cache-Control": f"private, max-age={max_age}"})


def unknown() -> Response:
    """Serve an empty picture while MongoDB, which knows the URL, does not answer. Browsers ask again later."""
    empty = '<svg xmlns="http://www.w3.org/2000/svg" width="56" height="56"/>'
    return Response(empty, media_type="image/svg+xml", headers={"Cache-Control": "no-store"})


def placeholder(request: Request) -> Response:
    """Serve the picture of a ThumbHash."""
    try:
        data = placeholder_png(request.path_params["thumbhash"])
    except ValueError:
        raise HTTPException(404, "The placeholder does not exist.") from None
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})
