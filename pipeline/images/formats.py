"""The formats that renditions are encoded in, and the settings of their encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from PIL.Image import Resampling

#: What the encoders are told, by format. Measured against sharp at its quality 80 (docs/performance.md): JPEG has 2 %
#: fewer bytes at 0.0007 more SSIM (0.0016 less at 800 x 800); progressive would save 3 % for 5 ms. WebP 79.5 has 1 %
#: fewer bytes at 0.0005 less SSIM; method 2 takes half the time of 4 and has, at the same bytes, 0.0035 less.
ENCODER_SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "JPEG": {"quality": 80},
    "PNG": {"level": 2},
    "GIF": {"optimize": True},
    "WEBP": {"quality": 79.5, "method": 4},
}


@dataclass(frozen=True)
class ImageFormat:
    """A format that renditions are encoded in."""

    name: str  #: Pillow's name
    extension: str
    content_type: str
    has_alpha: bool
    #: What makes pictures smaller for it. LANCZOS overshoots at edges, which JPEG spends bytes on: at the same bytes,
    #: BICUBIC (Catmull-Rom) has as much SSIM at 800 x 800 and 0.003 to 0.005 more below, even against what LANCZOS
    #: makes of the source, and takes 1 to 2 ms less. In WebP, edges beside nothing would darken more.
    kernel: Resampling = Resampling.LANCZOS


JPEG = ImageFormat("JPEG", ".jpeg", "image/jpeg", has_alpha=False, kernel=Resampling.BICUBIC)
PNG = ImageFormat("PNG", ".png", "image/png", has_alpha=True)
GIF = ImageFormat("GIF", ".gif", "image/gif", has_alpha=True)
WEBP = ImageFormat("WEBP", ".webp", "image/webp", has_alpha=True)

#: By a source's format. Others become PNG if they have alpha, else JPEG.
OWN_FORMAT: Final = {known.name: known for known in (JPEG, PNG, GIF, WEBP)}


def format_by_extension(extension: str) -> ImageFormat:
    """The format of `.jpeg`, `.png`, `.gif` or `.webp`; raises KeyError for another."""
    return {known.extension: known for known in OWN_FORMAT.values()}[extension]
