"""The formats that renditions are encoded in, and the settings of their encoders.

`recipe` has the names that a rendition may end in; `identify` and `opening` have the formats of sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from PIL import Image
from PIL.Image import Resampling

#: Encoder settings by format, which are part of `content_id`: a change gives every image that may have the format new
#: URLs. The settings below and the kernels are not part of it: a change needs a new RECIPE_VERSION.
#:
#: Compared with sharp at quality 80 (docs/performance.md): JPEG has 2 % fewer bytes at 0.0007 more SSIM (0.0016 less at
#: 800 x 800); progressive would save 3 % for 5 ms. WebP 79.5 has 1 % fewer bytes at 0.0005 less SSIM; method 2 takes
#: half the time of 4 and loses 0.0035 SSIM at the same size. AVIF has the SSIMULACRA2 of that WebP and a quarter fewer
#: bytes; speed 6 would save 6 % more for three times the CPU. Colours at full resolution cost 4 % and gain more. One
#: thread, because the sandbox refuses others.
ENCODER_SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "JPEG": {"quality": 80},
    "PNG": {"level": 2},
    "GIF": {"optimize": True},
    "WEBP": {"quality": 79.5, "method": 4},
    "AVIF": {"quality": 60, "speed": 8, "subsampling": "4:4:4", "max_threads": 1},
}


#: JPEGs up to this side get optimized Huffman tables. These save 0.3 to 0.5 KB, a fifth of a 50 x 50. For an 800 x 800
#: they would save 1.3 KB (1.3 %) and cost 2 ms of CPU.
OPTIMIZED_SIDE: Final = 256

#: JPEGs up to this side keep colours at full resolution, because half of it dulls small letters and edges. This costs
#: 0.1 to 0.3 KB (10 to 25 %) at 50 x 50 and 1 KB at 100 x 100. It would cost 5 KB at 250 x 250 and 25 to 38 KB at
#: 800 x 800.
FULL_COLOUR_SIDE: Final = 100


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

#: No source keeps this format, because feeds accept JPEG and PNG alone; renditions whose name ends in it have it.
AVIF = ImageFormat("AVIF", ".avif", "image/avif", has_alpha=True, kernel=Resampling.BICUBIC)

#: Formats that sources keep, by name. Sources of other formats become PNG if they have alpha, else JPEG.
OWN_FORMAT: Final = {known.name: known for known in (JPEG, PNG, GIF, WEBP)}


def format_by_extension(extension: str) -> ImageFormat:
    """Return the format of `.jpeg`, `.png`, `.gif`, `.webp` or `.avif`.

    Raises:
        KeyError: for any other extension.
    """
    return {known.extension: known for known in (*OWN_FORMAT.values(), AVIF)}[extension]


def jpeg_settings(side: int) -> dict[str, Any]:
    """Return the settings of a JPEG that depend on its longer side in pixels."""
    return {"optimize": side <= OPTIMIZED_SIDE, "subsampling": "4:4:4" if side <= FULL_COLOUR_SIDE else "4:2:0"}


def check_writable(extension: str) -> None:
    """Check that the libraries of this host can write the format of `.jpeg`, `.png`, `.webp` or `.avif`.

    Raises:
        ValueError: they cannot.
    """
    try:
        Image.new("RGB", (1, 1)).save(BytesIO(), format_by_extension(extension).name)
    except Exception:  # Pillow raises KeyError, OSError or ValueError, depending on what it was built without
        raise ValueError(
            f"Pillow on this host cannot write {extension}; install a Pillow that can, or leave {extension} out"
        ) from None
