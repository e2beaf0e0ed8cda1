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

    @property
    def extension(self) -> str:
        """The format that its name ends in, such as `.webp`; empty if the source decides."""
        return extension_in(self.name)


#: The formats that the name of a rendition may end in, whatever the source is.
NAMED_FORMATS = (".webp", ".avif", ".jpeg", ".png")

#: Maximum pixels of an AVIF. Its encoder takes 45 bytes of memory and 0.25 microseconds of CPU for each, and both are
#: limited for an image with all its renditions (images/sandbox.py).
MAX_AVIF_PIXELS = 9_000_000

_NAME = re.compile(rf"([1-9]\d{{0,4}})[xX]([1-9]\d{{0,4}})({'|'.join(map(re.escape, NAMED_FORMATS))})?")

#: The longest side of a rendition in pixels: the limit of WebP.
MAX_RENDITION_SIDE = 16_383


def parse_rendition(text: str) -> RenditionSize:
    """Parse a name like `250X250` or `800x800.webp`.

    Raises:
        ValueError: `text` is not a size within `MAX_RENDITION_SIDE`, alone or with one of `NAMED_FORMATS`.
    """
    match = _NAME.fullmatch(text)
    if not match or max(width := int(match[1]), height := int(match[2])) > MAX_RENDITION_SIDE:
        raise ValueError(
            f"{text!r} is not <width>x<height> with sides from 1 to {MAX_RENDITION_SIDE}, alone or followed by one of "
            f"{', '.join(NAMED_FORMATS)}"
        )
    if match[3] == ".avif" and width * height > MAX_AVIF_PIXELS:
        raise ValueError(f"{text!r} has more than {MAX_AVIF_PIXELS} pixels, the most for AVIF")
    return RenditionSize(text, width, height)


def extension_in(name: str) -> str:
    """Return the format that the name of a rendition ends in, such as `.webp`; empty if the source decides."""
    return "".join(name.partition(".")[1:])


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
