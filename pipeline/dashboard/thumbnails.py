"""Reads renditions from the bucket for the pages, so that the bucket can be private.

Only keys that the service itself creates are read: under S3_PREFIX, in the form of section 3 of the contract.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from pipeline.images.details.placeholder import placeholder_png
from pipeline.images.formats import format_by_extension
from pipeline.settings import get_settings
from pipeline.storage import s3

_KEY = re.compile(r"(?:[A-Z0-9_.-]{1,128}|custom)/[0-9a-f]{32}_[0-9]{1,5}[xX][0-9]{1,5}(\.(?:jpeg|png|gif|webp|avif))")


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


def read(key: str) -> tuple[bytes, str]:
    """Return the bytes and the content type of a rendition.

    Raises:
        S3Error: The rendition does not exist, or S3 fails.
    """
    match = _KEY.search(key)
    extension = match[1] if match else ".jpeg"
    data = s3.get(get_settings().s3_bucket, key, doing="read a rendition")
    return data, format_by_extension(extension).content_type


def placeholder(request: Request) -> Response:
    """Serve the picture of a ThumbHash."""
    try:
        data = placeholder_png(request.path_params["thumbhash"])
    except ValueError:
        return PlainTextResponse("The placeholder does not exist.", 404)
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})
