"""The payload of an input message: what it may contain, and its form as JSON (contract, section 1)."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from anyascii import anyascii

from pipeline.errors import Rejected

#: A payload whose JSON is longer than this, in bytes, waits in staging (contract, section 1). SQS bills by 64 KiB.
MAX_PAYLOAD_BYTES = 64 * 1024

#: Longer than any browser or cache accepts. What is longer is cut to one more, and fails in fetch.
MAX_URL_LENGTH = 8192

#: The two fields of a payload that name a source image.
IMAGE_FIELDS = ("image_url", "itunes_image")

Payload = dict[str, Any]

#: How deeply a payload may be nested: well below what every JSON library on its way takes.
MAX_DEPTH = 100

#: What SQS refuses in a body (not among the characters of XML 1.0), or UTF-8 cannot write; JSON escapes it.
_ESCAPED = re.compile("[\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def folder_name(bucket_name: str | None) -> str:
    """The folder that `bucket_name` stands for, by the rules of the contract's section 3.

    >>> folder_name("Mundo Cristão Podcasts"), folder_name(" a/b ?c&d "), folder_name("北京"), folder_name(None)
    ('MUNDO_CRISTAO_PODCASTS', 'A--B_-C-D', 'BEIJING', 'custom')
    """
    name = anyascii((bucket_name or "").strip())
    name = name.replace("/", "--").replace(" ", "_").replace("?", "-").replace("&", "-").upper()
    name = re.sub(r"[^A-Z0-9_.-]", "-", name)[:128]
    if not name:
        return "custom"
    return "-" if name in {".", ".."} else name


def validated(payload: object, own_queues: Collection[str]) -> Payload:
    """Check a payload against the rules of the contract, section 1.

    Args:
        payload: a decoded message.
        own_queues: full names of the queues of this service. A result sent there would become an input again, or be
            taken for a job.

    Returns:
        The payload as plain JSON types.

    Raises:
        Rejected: with a code for the rule it breaks.
    """
    if not isinstance(payload, dict):
        raise Rejected("not_an_object", f"The message is {_kind(payload)}, not a JSON object.")
    for name in (*IMAGE_FIELDS, "bucket_name", "redirect_queue", "postback_url"):
        if not isinstance(payload.get(name), str | None):
            raise Rejected("bad_field", f"The field {name} holds {_kind(payload[name])}; it must be a string.")
    if not any(present_url(payload.get(name)) for name in IMAGE_FIELDS):
        raise Rejected("no_image", "The message names no image: image_url or itunes_image is needed.")
    if not (payload.get("redirect_queue") or payload.get("postback_url")):
        raise Rejected("no_destination", "The message asks for no result: redirect_queue or postback_url is needed.")
    if (payload.get("redirect_queue") or "") in own_queues:
        raise Rejected(
            "bad_redirect_queue", "The field redirect_queue names a queue of this service: it would go round."
        )
    if payload.get("postback_url"):
        _check_postback_url(payload["postback_url"])
    if _depth(payload) > MAX_DEPTH:
        raise Rejected("too_deep", f"The message is nested more than {MAX_DEPTH} levels deep.")
    try:
        plain: Payload = parse_json(to_json(payload))
    except (TypeError, ValueError, RecursionError) as error:
        raise Rejected("not_json", f"The message cannot be written as JSON: {error}.") from None
    return plain


def parse_json(text: str | bytes) -> Any:
    """JSON strictly read: NaN, Infinity and numbers that would become infinite are refused, as receivers would.

    Raises:
        ValueError: it is not JSON (RecursionError where it is nested too deeply).
    """
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite)


def to_json(value: object) -> str:
    """Compact JSON that SQS takes as it is; a `bson.ObjectId` becomes its 24 hex digits.

    Raises:
        TypeError, ValueError: `value` has no form in JSON.
    """
    text = json.dumps(value, separators=(",", ":"), default=_plain, allow_nan=False, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _depth(value: object) -> int:
    """How deeply `value` is nested, counted up to one more than is allowed."""
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
    """What an image field holds, or None where that counts as absent."""
    return value if isinstance(value, str) and value not in {"", "N/A"} else None


def _check_postback_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        raise Rejected("bad_postback_url", "The field postback_url is no http or https URL.")


def _plain(value: object) -> str:
    bson = sys.modules.get("bson.objectid")  # not imported: a producer without pymongo has no ObjectId to send
    if bson and isinstance(value, bson.ObjectId):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


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
