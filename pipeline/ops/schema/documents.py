"""The documents of docs/schema, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from pipeline.ops.schema.channels import asyncapi
from pipeline.ops.schema.messages import Schema, message, postback, result, standalone

#: What makes each document. `<name>.json` in docs/schema contains it.
DOCUMENTS: Final[dict[str, Callable[[], Schema]]] = {
    "message": lambda: standalone(message()),
    "result": lambda: standalone(result()),
    "postback": lambda: standalone(postback()),
    "asyncapi": asyncapi,
}


def text_of(name: str) -> str:
    """Return a document as JSON text."""
    return json.dumps(DOCUMENTS[name](), indent=2, ensure_ascii=False) + "\n"
