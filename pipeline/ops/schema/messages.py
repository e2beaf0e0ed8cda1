"""JSON Schemas of the message, the result and the postback, and of their parts.

They use only keywords that mean the same in draft-07, which AsyncAPI embeds, and in draft 2020-12.
"""

from __future__ import annotations

import re
from typing import Any, Final

from pipeline.errors import ErrorInfo
from pipeline.images.details.facts import WARNINGS
from pipeline.images.encoding import AVIF, OWN_FORMAT
from pipeline.job import DELIVERIES
from pipeline.net.notifications import SECRET_FIELD
from pipeline.payload import ABSENT, IMAGE_FIELDS
from pipeline.recipe import NAMED_FORMATS
from pipeline.stages import STAGES

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

#: The name of a rendition (contract, section 2). `recipe.parse_rendition` also limits the sides.
RENDITION_NAME: Final = rf"^[1-9][0-9]{{0,4}}[xX][1-9][0-9]{{0,4}}({'|'.join(map(re.escape, NAMED_FORMATS))})?$"

#: URLs of postbacks, and the empty string for none. `payload.check_destinations` also parses them.
POSTBACK_URL: Final = r"^$|^ *[hH][tT][tT][pP][sS]?://([^/?#]*@)?[^/?#@:][^/?#@]*([/?#]|$)"

_ONLY_DETAILS = "Only with RESULT_DETAILS=on."
_PIXELS: Schema = {"type": "integer", "minimum": 1}
_CONTENT_TYPES = sorted(known.content_type for known in (*OWN_FORMAT.values(), AVIF))


def _object(description: str, required: list[str], properties: Schema) -> Schema:
    """Return the schema of an object that has no other properties."""
    return {
        "description": description,
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


def _text(description: str, **rules: Any) -> Schema:
    return {"description": description, "type": "string", **rules}


def _count(description: str) -> Schema:
    return {"description": description, **_PIXELS}


def _error() -> Schema:
    properties = {
        "stage": _text("The stage that failed.", enum=[stage.name for stage in STAGES]),
        "code": _text("For programs: one of docs/errors.md. New codes may be added.", pattern="^[a-z][a-z0-9_]*$"),
        "message": _text("One sentence for people. Its wording may change.", minLength=1),
    }
    return _object("Why an image failed for good.", list(ErrorInfo.__annotations__), properties)


def _rendition() -> Schema:
    details = {
        "width": _count(f"Pixels. {_ONLY_DETAILS}"),
        "height": _count(f"Pixels. {_ONLY_DETAILS}"),
        "bytes": _count(f"The size of the object. {_ONLY_DETAILS}"),
        "content_type": _text(_ONLY_DETAILS, enum=_CONTENT_TYPES),
    }
    plain = {
        "url": _text("The public URL. It never shows another picture.", format="uri-reference", minLength=1),
        "bucket_path": _text("The folder in the bucket, with a trailing slash.", pattern="/$"),
    }
    return {
        **_object("One stored rendition of an image.", list(plain), plain | details),
        "if": {"anyOf": [{"required": [name]} for name in details]},
        "then": {"required": list(details)},
    }


def _source() -> Schema:
    properties = {
        "width": _count("Pixels of the source, upright."),
        "height": _count("Pixels of the source, upright."),
        "bytes": _count("The size of the source."),
        "format": _text("The format of the source, from its bytes, such as jpeg.", pattern="^[a-z]{3,5}$"),
        "sha256": _text("The hash of the source's bytes.", pattern="^[0-9a-f]{64}$"),
        "color": _text("The mean colour of the picture.", pattern="^#[0-9a-f]{6}$"),
        "thumbhash": _text("A placeholder of about 25 bytes, in base64.", contentEncoding="base64", minLength=1),
        "warnings": {
            "description": "Where the source differs from what podcast directories ask for.",
            "type": "array",
            "items": {"type": "string", "enum": list(WARNINGS)},
            "uniqueItems": True,
        },
    }
    return _object(f"Facts of a source. {_ONLY_DETAILS}", list(properties), properties)


def _renditions() -> Schema:
    return {
        "description": "The renditions of an image by name, such as 800x800.",
        "type": "object",
        "propertyNames": {"pattern": RENDITION_NAME},
        "additionalProperties": {"$ref": "#/$defs/Rendition"},
        "minProperties": 1,
    }


#: Parts of several schemas, by name.
PARTS: Final[dict[str, Schema]] = {
    "Rendition": _rendition(),
    "Renditions": _renditions(),
    "ImageError": _error(),
    "SourceFacts": _source(),
}


def _message_properties() -> Schema:
    absent = " and ".join(f'"{value}"' for value in ABSENT if value)
    images = {
        name: {"description": f"The URL of a source image. {absent}, an empty string and null mean absent."}
        for name in IMAGE_FIELDS
    }
    others = {
        "bucket_name": {"description": "The folder of the objects. It is not the name of a bucket."},
        "redirect_queue": {"description": "The exact name of an SQS queue that receives the result."},
        "postback_url": {
            "description": "An http or https URL that the result is posted to.",
            "pattern": POSTBACK_URL,
        },
    }
    return {name: {"type": ["string", "null"], **rules} for name, rules in (images | others).items()}


def _present(field: str) -> Schema:
    """Return the condition that an image field names an image."""
    return {"required": [field], "properties": {field: {"type": "string", "not": {"enum": list(ABSENT)}}}}


def _outcome(field: str) -> Schema:
    """Return the rule that an image has a result exactly if the message named it, and an error exactly if it failed."""
    info, error, source = (f"{field}_{kind}" for kind in ("info", "error", "source"))
    failed = {"properties": {info: {"type": "null"}}}
    return {
        "if": _present(field),
        "then": {
            "required": [info],
            "if": failed,
            "then": {"required": [error], "not": {"required": [source]}},
            "else": {"not": {"required": [error]}},
        },
        "else": {"not": {"anyOf": [{"required": [info]}, {"required": [error]}]}},
    }


def message() -> Schema:
    """Return the schema of an input message (contract, section 1)."""
    destinations = [
        {"required": [name], "properties": {name: {"type": "string", "minLength": 1}}} for name in DELIVERIES
    ]
    return {
        "title": "Message",
        "description": "A message to the service. All other fields are returned unchanged.",
        "type": "object",
        "properties": _message_properties(),
        "additionalProperties": True,
        "allOf": [{"anyOf": [_present(name) for name in IMAGE_FIELDS]}, {"anyOf": destinations}],
    }


def result() -> Schema:
    """Return the schema of a result on a redirect queue (contract, section 4)."""
    return {**_result("Result", {}), "not": {"required": [SECRET_FIELD]}}


def postback() -> Schema:
    """Return the schema of the body of a postback: a result, and the shared secret unless it is switched off."""
    secret = _text("The shared secret, unless POSTBACK_SECRET_KEY=none. A signature proves more.")
    return _result("Postback", {SECRET_FIELD: secret})


def _result(title: str, more: Schema) -> Schema:
    properties = _message_properties()
    for name in IMAGE_FIELDS:
        properties[f"{name}_info"] = {
            "description": f"The renditions of {name}; null if it failed.",
            "anyOf": [{"$ref": "#/$defs/Renditions"}, {"type": "null"}],
        }
        properties[f"{name}_error"] = {"$ref": "#/$defs/ImageError"}
        properties[f"{name}_source"] = {"$ref": "#/$defs/SourceFacts"}
    return {
        "title": title,
        "description": "The message with what became of its images. It has all other fields of the message, unchanged.",
        "type": "object",
        "properties": properties | more,
        "additionalProperties": True,
        "allOf": [_outcome(name) for name in IMAGE_FIELDS],
    }


def standalone(schema: Schema) -> Schema:
    """Return a schema as a document of its own, with the parts that it refers to."""
    parts = {"$defs": PARTS} if "$ref" in repr(schema) else {}
    return {"$schema": DIALECT, **schema, **parts}
