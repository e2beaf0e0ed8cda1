"""Recipes: which renditions to make of a source, and how the picture is fitted into them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple, cast, get_args

Fit = Literal["cover", "contain", "fill", "blur"]

#: The formats of renditions whose names end in none: the source's own where renditions can have it, or JPEG, and PNG
#: for pictures with alpha.
Formats = Literal["source", "jpeg,png"]


class RenditionSize(NamedTuple):
    """One rendition: its `name` exactly as configured, its size in pixels, and its own fit, if it has one."""

    name: str
    width: int
    height: int
    fit: Fit | Literal[""] = ""

    @property
    def extension(self) -> str:
        """The format that its name ends in, such as `.webp`; empty if the source decides."""
        return extension_in(self.name)

    def __str__(self) -> str:
        return f"{self.name}@{self.fit}" if self.fit else self.name


#: The formats that the name of a rendition may end in, whatever the source is.
NAMED_FORMATS = (".webp", ".avif", ".jpeg", ".png")

#: Maximum pixels of an AVIF. Its encoder takes 45 bytes of memory and 0.25 microseconds of CPU for each, and both are
#: limited for an image with all its renditions (images/sandbox.py).
MAX_AVIF_PIXELS = 9_000_000

_EXTENSION, _OWN_FIT = "|".join(map(re.escape, NAMED_FORMATS)), "|".join(get_args(Fit))
_RENDITION = re.compile(rf"(([1-9]\d{{0,4}})[xX]([1-9]\d{{0,4}})({_EXTENSION})?)(?:@({_OWN_FIT}))?")

#: The longest side of a rendition in pixels: the limit of WebP.
MAX_RENDITION_SIDE = 16_383


def parse_rendition(text: str) -> RenditionSize:
    """Parse a rendition like `250X250`, `800x800.webp` or `1200x630@blur`.

    Raises:
        ValueError: `text` is not a size within `MAX_RENDITION_SIDE`, alone or with one of `NAMED_FORMATS` and a fit.
    """
    match = _RENDITION.fullmatch(text)
    if not match or max(width := int(match[2]), height := int(match[3])) > MAX_RENDITION_SIDE:
        raise ValueError(
            f"{text!r} is not <width>x<height> with sides from 1 to {MAX_RENDITION_SIDE}, alone or followed by one of "
            f"{', '.join(NAMED_FORMATS)}, and by @ with one of {', '.join(get_args(Fit))}"
        )
    if match[4] == ".avif" and width * height > MAX_AVIF_PIXELS:
        raise ValueError(f"{text!r} has more than {MAX_AVIF_PIXELS} pixels, the most for AVIF")
    return RenditionSize(match[1], width, height, cast("Fit", match[5] or ""))


def check_apart(renditions: Sequence[RenditionSize]) -> None:
    """Check that no two renditions would be one object with two pictures.

    A rendition without a format in its name may get that of another one, whose key it then has.

    Raises:
        ValueError: two have one size and format, or may have and differ in their fit.
    """
    for one, other in combinations(renditions, 2):
        if one[1:3] != other[1:3]:
            continue
        if one.extension == other.extension:
            raise ValueError(f"'{one}' and '{other}' have the same size and format; each may be named once")
        if "" in (one.extension, other.extension) and one.fit != other.fit:
            raise ValueError(f"'{one}' and '{other}' may be the same object, so they need the same fit")


def extension_in(name: str) -> str:
    """Return the format that the name of a rendition ends in, such as `.webp`; empty if the source decides."""
    return "".join(name.partition(".")[1:])


@dataclass(frozen=True)
class Recipe:
    """The renditions to make of a source.

    Recipes that make the same pictures are equal: each rendition has its fit, and `fit` is that of the first.

    Attributes:
        renditions: at least one.
        fit: of renditions without a fit of their own. `cover` fills the rendition and crops around the centre,
            `contain` pads, `fill` stretches, `blur` pads with a blurred copy of the picture.
        formats: of renditions whose names end in no format.

    Raises:
        ValueError: `renditions` is empty, or the fit or the formats are unknown.
    """

    renditions: tuple[RenditionSize, ...]
    fit: Fit = "cover"
    formats: Formats = "source"

    def __post_init__(self) -> None:
        if not self.renditions:
            raise ValueError("a recipe needs at least one rendition")
        for value, known in ((self.fit, get_args(Fit)), (self.formats, get_args(Formats))):
            if value not in known:
                raise ValueError(f"{value!r} is not one of {', '.join(known)}")
        renditions = tuple(each._replace(fit=each.fit or self.fit) for each in self.renditions)
        object.__setattr__(self, "renditions", renditions)
        object.__setattr__(self, "fit", renditions[0].fit)
        if all(each.extension for each in renditions):
            object.__setattr__(self, "formats", "source")

    def encode(self) -> dict[str, Any]:
        """Return the form used in messages and ids: `{"renditions": ["50x50", "1200x630@blur"], "fit": "cover"}`.

        Recipes without fits of renditions or output formats keep their earlier form.
        """
        names = [each.name if each.fit == self.fit else str(each) for each in self.renditions]
        formats = {} if self.formats == "source" else {"formats": self.formats}
        return {"renditions": names, "fit": self.fit, **formats}

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `encode` returned `data` for.

        Raises:
            ValueError: `data` is not an encoded recipe.
        """
        try:
            renditions = tuple(parse_rendition(name) for name in data["renditions"])
            return cls(renditions, data["fit"], data.get("formats", "source"))
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"{data!r} is not a recipe") from None
