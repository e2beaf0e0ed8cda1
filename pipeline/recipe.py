"""Recipes: which renditions to make of a source, and how the picture is fitted into them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

Fit = Literal["cover", "contain", "fill"]


class RenditionSize(NamedTuple):
    """One rendition: its `name` exactly as configured, and its size in pixels."""

    name: str
    width: int
    height: int


#: The longest side of a rendition in pixels: the limit of WebP.
MAX_RENDITION_SIDE = 16_383


def parse_rendition(text: str) -> RenditionSize:
    """Parse a size like `250X250`.

    Raises:
        ValueError: `text` is not a size within `MAX_RENDITION_SIDE`.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", text)
    if not match or max(width := int(match[1]), height := int(match[2])) > MAX_RENDITION_SIDE:
        raise ValueError(f"{text!r} is not <width>x<height> with sides from 1 to {MAX_RENDITION_SIDE}")
    return RenditionSize(text, width, height)


@dataclass(frozen=True)
class Recipe:
    """The renditions to make of a source.

    Attributes:
        renditions: at least one.
        fit: `cover` fills the rendition and crops around the centre, `contain` pads, `fill` stretches.

    Raises:
        ValueError: `renditions` is empty, or the fit is unknown.
    """

    renditions: tuple[RenditionSize, ...]
    fit: Fit = "cover"

    def __post_init__(self) -> None:
        if not self.renditions:
            raise ValueError("a recipe needs at least one rendition")
        if self.fit not in get_args(Fit):
            raise ValueError(f"{self.fit!r} is not one of {', '.join(get_args(Fit))}")

    def encode(self) -> dict[str, Any]:
        """Return the form used in messages: `{"renditions": ["50x50", ...], "fit": "cover"}`."""
        return {"renditions": [rendition.name for rendition in self.renditions], "fit": self.fit}

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `encode` returned `data` for.

        Raises:
            ValueError: `data` is not an encoded recipe.
        """
        try:
            return cls(tuple(parse_rendition(name) for name in data["renditions"]), data["fit"])
        except (KeyError, TypeError):
            raise ValueError(f"{data!r} is not a recipe") from None
