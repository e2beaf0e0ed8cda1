"""Measures what results report of a source that was rendered (contract, section 4). Runs in the sandbox."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from PIL import Image

from pipeline.images.details.is_animated import is_animated
from pipeline.images.details.thumbhash import hashed

#: The sides in pixels that Apple accepts for the artwork of a podcast.
#: https://podcasters.apple.com/support/896-artwork-requirements
SHORTEST_SIDE: Final = 1400
LONGEST_SIDE: Final = 3000

#: Pillow's modes of colours that are neither grey nor ink. JPEGs store RGB as YCbCr.
_RGB: Final = frozenset({"RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "YCbCr"})

_WITH_ALPHA: Final = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})


class Header(NamedTuple):
    """The facts of a source before it is decoded."""

    format: str  #: as in Pillow
    has_alpha: bool
    is_rgb: bool

    @classmethod
    def of(cls, name: str, image: Image.Image) -> Header:
        """Return the facts of an image that has been opened and not decoded."""
        has_alpha = image.mode in _WITH_ALPHA or "transparency" in image.info
        return cls(name, has_alpha, image.mode in _RGB)

    def facts(self, source: bytes, size: tuple[int, int], tiny: Image.Image) -> dict[str, Any]:
        """Return all facts that the sandbox reports, as JSON types.

        Args:
            source: its bytes.
            size: of the source, upright.
            tiny: the whole picture, upright and in sRGB, at a size that `hashed` accepts.
        """
        found = hashed(tiny)
        return {
            "width": size[0],
            "height": size[1],
            "format": self.format.lower(),
            "color": f"#{bytes(found.colour).hex()}",
            "thumbhash": base64.b64encode(found.thumbhash).decode(),
            "warnings": [*self._warnings(*size), *(["animated"] if is_animated(self.format, source) else [])],
        }

    def _warnings(self, width: int, height: int) -> Iterator[str]:
        if width != height:
            yield "not_square"
        if min(width, height) < SHORTEST_SIDE:
            yield "below_1400"
        if max(width, height) > LONGEST_SIDE:
            yield "above_3000"
        if self.has_alpha:
            yield "has_alpha"
        if not self.is_rgb:
            yield "not_rgb"
