"""The formats that renditions are encoded in, and the settings of their encoders. `opening` has those of sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from PIL.Image import Resampling

#: Encoder settings by format. Compared with sharp at quality 80 (docs/performance.md): JPEG has 2 %
#: fewer bytes at 0.0007 more SSIM (0.0016 less at 800 x 800); progressive would save 3 % for 5 ms. WebP 79.5 has 1 %
#: fewer bytes at 0.0005 less SSIM; method 2 takes half the time of 4 and loses 0.0035 SSIM at the same size.
ENCODER_SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "JPEG": {"quality": 80},
    "PNG": {"level": 2},
    "GIF": {"optimize": True},
    "WEBP": {"quality": 79.5, "method": 4},
}


@dataclass(frozen=True)
class ImageFormat:
    """A format of renditions."""

    name: str  #: in Pillow
    extension: str
    content_type: str
    has_alpha: bool
    #: The kernel for shrinking. LANCZOS overshoots at edges, which costs bytes in JPEG. At equal size, BICUBIC
    #: (Catmull-Rom) has the same SSIM at 800 x 800 and 0.003 to 0.005 more below, even compared with a LANCZOS
    #: reference, and takes 1 to 2 ms less. In WebP, it would darken edges next to transparency more.
    kernel: Resampling = Resampling.LANCZOS


JPEG = ImageFormat("JPEG", ".jpeg", "image/jpeg", has_alpha=False, kernel=Resampling.BICUBIC)
PNG = ImageFormat("PNG", ".png", "image/png", has_alpha=True)
GIF = ImageFormat("GIF", ".gif", "image/gif", has_alpha=True)
WEBP = ImageFormat("WEBP", ".webp", "image/webp", has_alpha=True)

#: Formats that sources keep, by name. Sources of other formats become PNG if they have alpha, else JPEG.
OWN_FORMAT: Final = {known.name: known for known in (JPEG, PNG, GIF, WEBP)}


def format_by_extension(extension: str) -> ImageFormat:
    """Return the format of `.jpeg`, `.png`, `.gif` or `.webp`.

    Raises:
        KeyError: for any other extension.
    """
    return {known.extension: known for known in OWN_FORMAT.values()}[extension]
