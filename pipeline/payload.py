"""The payload of an input message: its rules and its JSON (contract, section 1)."""

from __future__ import annotations

import json
import math
import re
import sys
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from anyascii import anyascii

from pipeline.errors import Rejected
from pipeline.settings import Settings

#: Bytes of JSON up to which a payload travels in messages; longer ones wait in staging. SQS bills by 64 KiB.
MAX_PAYLOAD_BYTES = 64 * 1024

#: Maximum characters of a URL: more than any browser or cache accepts. Longer ones are
#: cut to one more, and fail in fetch.
MAX_URL_LENGTH = 8192

#: The fields of a payload that contain the URL of a source image.
IMAGE_FIELDS = ("image_url", "itunes_image")

#: Values of an image field that mean the same as its absence.
ABSENT = ("", "N/A")

Payload = dict[str, Any]

#: Characters that end a line of a request, or that urllib removes before it parses a URL.
_CONTROL = re.compile("[\x00-\x1f\x7f]")

#: Maximum nesting of a payload: well below the limit of any JSON library that handles it.
MAX_DEPTH = 100

#: Characters to escape: SQS replaces characters outside XML 1.0, and UTF-8 cannot encode surrogates.
_ESCAPED = re.compile("[\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def folder_name(bucket_name: str | None) -> str:
    """Return the folder for `bucket_name` (contract, section 3).

    >>> folder_name("Mundo Cristão Podcasts"), folder_name(" a/b ?c&d "), folder_name("北京"), folder_name(None)
    ('MUNDO_CRISTAO_PODCASTS', 'A--B_-C-D', 'BEIJING', 'custom')
    """
    name = anyascii((bucket_name or "").strip())
    name = name.replace("/", "--").replace(" ", "_").replace("?", "-").replace("&", "-").upper()
    name = re.sub(r"[^A-Z0-9_.-]", "-", name)[:128]
    if not name:
        return "custom"
    return "-" if name in {".", ".."} else name


def validated(payload: object, settings: Settings) -> Payload:
    """Check a payload against the rules of the contract, section 1.

    Args:
        payload: a decoded message.
        settings: The destinations that a message may name.

    Returns:
        The payload as plain JSON types.

    Raises:
        Rejected: the payload breaks a rule.
    """
    if not isinstance(payload, dict):
        raise Rejected("not_an_object", f"The message is {_kind(payload)}, not a JSON object.")
    for name in (*IMAGE_FIELDS, "bucket_name", "redirect_queue", "postback_url"):
        if not isinstance(payload.get(name), str | None):
            raise Rejected("bad_field", f"The field {name} is {_kind(payload[name])}; it must be a string.")
    if not any(present_url(payload.get(name)) for name in IMAGE_FIELDS):
        raise Rejected("no_image", "The message contains no image: image_url or itunes_image is required.")
    if not (payload.get("redirect_queue") or payload.get("postback_url")):
        raise Rejected("no_destination", "The message has no destination: redirect_queue or postback_url is required.")
    check_destinations(payload, settings)
    if _depth(payload) > MAX_DEPTH:
        raise Rejected("too_deep", f"The message is nested more than {MAX_DEPTH} levels deep.")
    try:
        plain: Payload = parse_json(to_json(payload))
    except (TypeError, ValueError, RecursionError) as error:
        raise Rejected("not_json", f"The message cannot be written as JSON: {error}.") from None
    return plain


def parse_json(text: str | bytes) -> Any:
    """Parse JSON strictly, as receivers do: NaN, Infinity and numbers too large for a float are errors.

    Raises:
        ValueError: the text is not JSON.
        RecursionError: the text is nested too deeply.
    """
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite)


def to_json(value: object) -> str:
    """Return compact JSON that SQS accepts. A `bson.ObjectId` becomes its 24 hex digits.

    Raises:
        TypeError: JSON has no such type.
        ValueError: `value` contains NaN or Infinity, or itself.
    """
    text = json.dumps(value, separators=(",", ":"), default=_plain, allow_nan=False, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _depth(value: object) -> int:
    """Return the nesting of `value`, counted up to one more than `MAX_DEPTH`."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list | tuple)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth


def present_url(value: object) -> str | None:
    """Return the value of an image field, or None if it counts as absent."""
    return value if isinstance(value, str) and value not in ABSENT else None


def check_destinations(payload: Payload, settings: Settings) -> None:
    """Check that results may be sent to the destinations in a payload.

    Raises:
        Rejected: `bad_redirect_queue`, `bad_postback_url`.
    """
    queue = payload.get("redirect_queue") or ""
    if queue in settings.own_queues:
        message = "The field redirect_queue names a queue of this service, which would process the result."
        raise Rejected("bad_redirect_queue", message)
    patterns = (*settings.redirect_queues, settings.full_queue_name("submit_*"))  # with the queues of `submit --wait`
    if queue and settings.redirect_queues and not any(fnmatchcase(queue, each) for each in patterns):
        message = "The field redirect_queue names a queue that REDIRECT_QUEUES does not list."
        raise Rejected("bad_redirect_queue", message)
    if payload.get("postback_url"):
        _check_postback_url(payload["postback_url"], https_only=settings.postback_https_only)


def _check_postback_url(url: str, *, https_only: bool) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and not _CONTROL.search(url)
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        raise Rejected("bad_postback_url", "The field postback_url is not an http or https URL.")
    if https_only and parts.scheme != "https":
        raise Rejected(
            "bad_postback_url", "The field postback_url is not an https URL, which POSTBACK_HTTPS_ONLY requires."
        )


def _plain(value: object) -> str:
    bson = sys.modules.get("bson.objectid")  # not imported here: only programs that import it have an ObjectId
    if bson and isinstance(value, bson.ObjectId):
        return str(value)
    raise TypeError(f"JSON has no type for a {type(value).__name__}")


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")
