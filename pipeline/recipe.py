"""The sizes that covers are rendered in."""

from __future__ import annotations

import re
from typing import NamedTuple


class RenditionSize(NamedTuple):
    """One rendition: its `name` letter for letter as configured, and its exact size in pixels."""

    name: str
    width: int
    height: int


#: The widest side a rendition may have: the largest that WebP can store.
MAX_RENDITION_SIDE = 16_383


def parse_rendition(text: str) -> RenditionSize:
    """`250X250` as a `RenditionSize`; raises ValueError for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", text)
    if not match or max(width := int(match[1]), height := int(match[2])) > MAX_RENDITION_SIDE:
        raise ValueError(f"{text!r} is not <width>x<height> with sides from 1 to {MAX_RENDITION_SIDE}")
    return RenditionSize(text, width, height)
