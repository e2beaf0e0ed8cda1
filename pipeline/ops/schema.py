"""The documents of docs/schema, by name.

The AsyncAPI document is written by hand, and tests compare it with the code. It contains the JSON Schemas of the
message, the result and the postback, from which the other documents are made. They use only keywords that mean the same
in draft-07, which AsyncAPI embeds, and in draft 2020-12.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pipeline.version import version

#: The document as it is written. docs/schema has a copy with the version.
ASYNCAPI: Final = Path(__file__).with_name("asyncapi.json")

#: The names of the documents. `<name>.json` in docs/schema contains each.
DOCUMENTS: Final = ("message", "result", "postback", "asyncapi")

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def document(name: str) -> Schema:
    """Return one of `DOCUMENTS`."""
    asyncapi: Schema = json.loads(ASYNCAPI.read_text(encoding="utf-8"))
    asyncapi["info"]["version"] = version()
    if name == "asyncapi":
        return asyncapi
    schemas = asyncapi["components"]["schemas"]
    parts = {title: schema for title, schema in schemas.items() if title.lower() not in DOCUMENTS}
    schema = schemas[name.title()]
    alone = {"$schema": DIALECT, **schema, **({"$defs": parts} if "$ref" in repr(schema) else {})}
    embedded: Schema = json.loads(json.dumps(alone).replace("#/components/schemas/", "#/$defs/"))
    return embedded


def text_of(name: str) -> str:
    """Return a document as JSON text."""
    return json.dumps(document(name), indent=2, ensure_ascii=False) + "\n"
