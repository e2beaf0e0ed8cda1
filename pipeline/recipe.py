"""What to make of a source: the renditions, and how a picture is fitted into them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

Fit = Literal["cover", "contain", "fill"]


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


@dataclass(frozen=True)
class Recipe:
    """What to make of a source; raises ValueError for no rendition at all or an unknown fit."""

    renditions: tuple[RenditionSize, ...]
    fit: Fit = "cover"  #: or `contain`: inside, padded; or `fill`: stretched. `cover` fills and crops around the centre

    def __post_init__(self) -> None:
        if not self.renditions:
            raise ValueError("a recipe needs at least one rendition")
        if self.fit not in get_args(Fit):
            raise ValueError(f"{self.fit!r} is not one of {', '.join(get_args(Fit))}")

    def encode(self) -> dict[str, Any]:
        """This recipe as messages carry it: `{"renditions": ["50x50", ...], "fit": "cover"}`."""
        return {"renditions": [rendition.name for rendition in self.renditions], "fit": self.fit}

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe that `encode` made `data` of; raises ValueError for anything else."""
        try:
            return cls(tuple(parse_rendition(name) for name in data["renditions"]), data["fit"])
        except (KeyError, TypeError):
            raise ValueError(f"{data!r} is not a recipe") from None
