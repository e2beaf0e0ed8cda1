"""Content ids. They determine the keys under which renditions are published."""

from __future__ import annotations

import hashlib
import json
from typing import Final

from pipeline.images.formats import ENCODER_SETTINGS, OWN_FORMAT, format_by_extension
from pipeline.recipe import Recipe

#: Increment this when the code makes other pictures of the same input, in `render`, `formats` or `colour`. Every image
#: then gets new URLs. Other versions of libraries change the last bits alone, and need no increment.
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
    """Return what determines renditions besides the source.

    The settings of a format that no source keeps count only where the recipe names it, so that they can change without
    moving the URLs of others.
    """
    named = {format_by_extension(each.extension).name for each in recipe.renditions if each.extension}
    settings = {name: ENCODER_SETTINGS[name] for name in OWN_FORMAT.keys() | named}
    return json.dumps([RECIPE_VERSION, recipe.encode(), settings], sort_keys=True).encode()
