"""The id of a source and its recipe, the first part of every key under which its renditions are published."""

from __future__ import annotations

import hashlib
import json
from typing import Final

from pipeline.images.formats import ENCODER_SETTINGS
from pipeline.recipe import Recipe

#: Raised by hand when the same input shall give other bytes; every cover then gets new URLs.
RECIPE_VERSION: Final = 3


def content_id(source: bytes, recipe: Recipe) -> str:
    """32 hex digits, the same for the same source and recipe: 128 bits of SHA-256 (contract, section 3)."""
    head = json.dumps([RECIPE_VERSION, recipe.encode(), ENCODER_SETTINGS], sort_keys=True).encode()
    digest = hashlib.sha256(head + b"\0")  # JSON contains no zero byte: the source begins after the first
    digest.update(source)
    return digest.hexdigest()[:32]
