"""Content ids. They determine the keys under which renditions are published."""

from __future__ import annotations

import hashlib
import json
from typing import Final

from pipeline.images.formats import ENCODER_SETTINGS
from pipeline.recipe import Recipe

#: Increment this when the same input should result in other bytes. Every image then gets new URLs.
RECIPE_VERSION: Final = 3


def content_id(source: bytes, recipe: Recipe) -> str:
    """Return 32 hex digits for a source and its recipe: 128 bits of SHA-256 (contract, section 3)."""
    digest = hashlib.sha256(_head(recipe) + b"\0")  # JSON contains no zero byte, so this separates it from the source
    digest.update(source)
    return digest.hexdigest()[:32]


def recipe_id(recipe: Recipe) -> str:
    """Return 32 hex digits for everything but the source that determines renditions."""
    return hashlib.sha256(_head(recipe)).hexdigest()[:32]


def _head(recipe: Recipe) -> bytes:
    return json.dumps([RECIPE_VERSION, recipe.encode(), ENCODER_SETTINGS], sort_keys=True).encode()
