"""Identifies the format of a source, and chooses the format of its renditions, without decoding and without libraries.

The fetch stage does this in a process with credentials, so no native code may run on untrusted bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from pipeline.errors import PermanentError, PipelineError, RetryableError
from pipeline.images.containers.avif import read_avif
from pipeline.images.containers.bitmap import Bitmap, read_bmp, read_ico
from pipeline.images.containers.gif import read_gif
from pipeline.images.containers.jpeg import Jpeg, read_jpeg
from pipeline.images.containers.model import Container, File, Size
from pipeline.images.containers.png import read_png
from pipeline.images.containers.tiff import read_tiff
from pipeline.images.containers.webp import read_webp
from pipeline.images.encoding import JPEG, OWN_FORMAT, PNG, ImageFormat
from pipeline.images.signatures import format_of
from pipeline.recipe import Formats

#: Maximum side in pixels: the limit of JPEG and GIF.
MAX_SIDE: Final = 65_535

#: Nanoseconds of CPU for each decoded pixel, resizing included, as measured on one core of 2023. An AVIF or TIFF may
#: contain more pixels than it claims.
_NANOSECONDS_A_PIXEL: Final[Mapping[str, float]] = {
    "JPEG": 2.5,  # in the first pass
    "PNG": 22,
    "GIF": 20,
    "BMP": 3,
    "ICO": 22,
    "TIFF": 12,
    "WEBP": 20,
    "AVIF": 16,
}
#: The same for each further pass of a JPEG, and for a BMP with run-length coding.
_PASS_NANOSECONDS: Final = 0.65
_RUN_LENGTH_NANOSECONDS: Final = 120
#: BMP's values of `compression` with run-length coding: RLE8 and RLE4.
_RUN_LENGTH: Final = frozenset({1, 2})

#: Estimated seconds of CPU above which an image is a giant. The slowest covers that podcast directories accept, PNGs
#: and WebPs of 3000 x 3000 pixels, take 0.2 s. So do 12 megapixels of a phone's camera. Giants take up to 3.4 s.
GIANT_SECONDS: Final = 0.3

#: Accepted formats, and the readers of their structure.
READERS: Final[Mapping[str, Callable[[File], Container]]] = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "GIF": read_gif,
    "WEBP": read_webp,
    "AVIF": read_avif,
    "BMP": read_bmp,
    "TIFF": read_tiff,
    "ICO": read_ico,
}


class Identified(NamedTuple):
    """The facts in the header of an image."""

    output: ImageFormat  #: the format of its renditions
    is_giant: bool  #: rendering it takes so much CPU that other images should not wait for it
    format: str  #: of the source, as in Pillow

    @property
    def extension(self) -> str:
        """The extension of its renditions."""
        return self.output.extension


def identify(source: bytes, *, max_pixels: int, formats: Formats = "source") -> Identified:
    """Return the format that the renditions of `source` will have and its size class, without decoding pixels.

    Args:
        source: the bytes of an image.
        max_pixels: the largest width x height to accept (`MAX_SOURCE_PIXELS`).
        formats: of renditions, as in their recipe.

    Raises:
        PermanentError: `not_an_image`, `unsupported_format`, `too_large` or `broken_image`.
        RetryableError: `out_of_memory`.
    """
    with image_errors(source):
        name, container = read(source, max_pixels)
        return Identified(output_format(name, container, formats), is_giant(name, container), name)


def read(source: bytes, max_pixels: int) -> tuple[str, Container]:
    """Return the name of a source's format and its structure.

    Raises:
        PermanentError: `too_large` or `unsupported_format`.
        Exception: of several types for a broken or unknown file; `image_errors()` translates it.
    """
    name = str(format_of(source))
    container = READERS[name](File(source))
    check_size(container.size, max_pixels)
    if isinstance(container, Jpeg):
        container.check()
    return name, container


def output_format(name: str, container: Container, formats: Formats = "source") -> ImageFormat:
    """Return the format of renditions whose names end in none: the source's own, if asked for, else PNG or JPEG."""
    own = OWN_FORMAT.get(name) if formats == "source" else None
    return own or (PNG if container.has_alpha else JPEG)


@contextmanager
def image_errors(source: bytes) -> Iterator[None]:
    """Translate errors inside the context. Readers and libraries raise exceptions of any type for a broken file.

    Raises:
        PermanentError: `too_large`, `broken_image`, `unsupported_format` or `not_an_image`.
        RetryableError: `out_of_memory`.
    """
    try:
        yield
    except PipelineError:
        raise
    except MemoryError as error:
        raise RetryableError("out_of_memory", "There was not enough memory to process the image.") from error
    except Exception as error:
        name = format_of(source)
        if name in READERS:
            raise PermanentError("broken_image", f"The {name} image is broken or incomplete.") from error
        if name:
            raise PermanentError("unsupported_format", f"{name} is not a supported image format.") from error
        raise PermanentError("not_an_image", f"The {len(source)} bytes received are not an image.") from error


def is_giant(name: str, container: Container) -> bool:
    """Return whether decoding takes so much CPU that other images should not wait for it."""
    nanoseconds: float = _NANOSECONDS_A_PIXEL[name]
    if isinstance(container, Jpeg):
        nanoseconds += _PASS_NANOSECONDS * (container.scans - 1)
    elif isinstance(container, Bitmap) and container.compression in _RUN_LENGTH:
        nanoseconds = _RUN_LENGTH_NANOSECONDS
    width, height = container.size
    return width * height * nanoseconds > GIANT_SECONDS * 1e9


def check_size(size: Size, limit: int) -> None:
    """Refuse an image without pixels, or with too many.

    Raises:
        ValueError: it has none.
        PermanentError: `too_large`.
    """
    width, height = size
    if min(size) <= 0:
        raise ValueError("the image has no pixels")
    if width * height > limit:
        raise PermanentError("too_large", f"The image has {width} x {height} pixels; {limit} are accepted.")
    if max(size) > MAX_SIDE:
        raise PermanentError(
            "too_large", f"The image has {width} x {height} pixels; at most {MAX_SIDE} a side are accepted."
        )
