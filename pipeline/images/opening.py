"""Opening untrusted images: only allowed decoders, and every limit checked before a pixel is decoded.

Opening an image sets two of Pillow's globals. Its limit of pixels guards the memory that Pillow allocates before the
size is known here; the limits of this module are the exact ones. The other is the number of threads for an AVIF.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Final

from PIL import AvifImagePlugin, ExifTags, Image

from pipeline.errors import PermanentError, PipelineError, RetryableError
from pipeline.images.colour import png_profile
from pipeline.images.containers import check_tiff, orientation, read_jpeg, read_png

#: Bytes of memory for decoding one image: 1 GiB less 100 MB for the process, and less twice MAX_SOURCE_BYTES (50 MB),
#: because the source may be copied.
MAX_DECODER_BYTES: Final = 850_000_000
#: Maximum side in pixels: the limit of JPEG and GIF.
MAX_SIDE: Final = 65_535
#: Maximum passes of a JPEG. Encoders write 10, and an attacker needs 250 bytes for each.
MAX_SCANS: Final = 200
#: Maximum pixels of all passes of a JPEG: 14 passes of 178 megapixels. A refining pass takes 0.65 s per 10^9 pixels.
MAX_SCANNED_PIXELS: Final = 2_500_000_000

#: Accepted formats. By default Pillow opens 43, including EPS, which starts Ghostscript.
ACCEPTED: Final = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO")

#: Bytes of memory for each decoded pixel, as measured: the decoder's, Pillow's, and those of copies for resizing.
_BYTES_A_PIXEL: Final[Mapping[str, int]] = {
    "JPEG": 4,  # plus its coefficients
    "PNG": 13,
    "GIF": 6,
    "BMP": 9,
    "ICO": 13,
    "TIFF": 14,  # a strip or tile may be the whole image
    "WEBP": 17,  # two canvases, and a copy of one as bytes
    "AVIF": 14,  # planes, RGBA, and its copy as bytes. More with over 8 bits or in a grid, which Pillow does not report
}

#: Nanoseconds of CPU for each decoded pixel, resizing included, as measured on one core of 2023. The cost of a JPEG
#: depends on its passes instead. An AVIF or TIFF may contain more pixels than it claims.
_NANOSECONDS_A_PIXEL: Final[Mapping[str, int]] = {
    "PNG": 22,
    "GIF": 20,
    "BMP": 3,
    "ICO": 22,
    "TIFF": 12,
    "WEBP": 20,
    "AVIF": 16,
}
#: The same for the first pass of a JPEG, for each further pass, and for a BMP with run-length coding.
_JPEG_NANOSECONDS: Final = 2.5
_PASS_NANOSECONDS: Final = 0.65
_RUN_LENGTH_NANOSECONDS: Final = 120
#: BMP's values of `compression` with run-length coding: RLE8 and RLE4.
_RUN_LENGTH: Final = frozenset({1, 2})

#: Estimated seconds of CPU above which an image is a giant. The slowest covers that podcast directories accept, PNGs
#: and WebPs of 3000 x 3000 pixels, take 0.2 s. So do 12 megapixels of a phone's camera. Giants take up to 10 s.
GIANT_SECONDS: Final = 0.3

#: Accepted compressions of TIFF: those used for pictures. Others would need further decoders.
_TIFF_COMPRESSIONS: Final = {
    "raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg", "tiff_jpeg",
    "tiff_ccitt", "group3", "group4", "tiff_raw_16",
}  # fmt: skip

#: Patterns for the first kilobyte of a source, by the name of its format. Some formats are only recognized.
_BEGINNINGS: Final = {
    "AVIF": rb"....ftyp(?:.{4}){0,16}?avi[fs]",  # before HEIC, because some files contain both brands
    "HEIC": rb"....ftyp(?:hei|hev|mif1|msf1)",
    "SVG": rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.{,500}?|<!--.{,500}?|<!DOCTYPE svg.{,300}?)?<svg",
    "PDF": rb"%PDF-",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "Photoshop": rb"8BPS",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM(?:.{4}\0{4}|.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0)",  # or a known header size
    "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "ICO": rb"\0\0\x01\0",
}

Size = tuple[int, int]  # width and height in pixels
Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Opened:
    """An image whose header has been read. Its pixels are decoded on first use."""

    image: Image.Image
    picture: bytes  #: the bytes that it was opened from
    format: str  #: one of `ACCEPTED`
    orientation: int = 1  #: as in EXIF, 1 to 8
    profile: bytes | None = None  #: ICC profile
    coefficients: int = 0  #: bytes that a JPEG's decoder holds at any scale
    scans: int = 1  #: a JPEG's passes over the picture
    canvas: Size | None = None  #: size of an animation whose first frame is smaller
    box: Box | None = None  #: position of that frame on the canvas

    @property
    def has_alpha(self) -> bool:
        return bool(self.image.has_transparency_data or self.canvas)

    @property
    def decoder_bytes(self) -> int:
        """Bytes of memory for decoding at the current scale."""
        width, height = self.canvas or self.image.size
        return width * height * _BYTES_A_PIXEL[self.format] + self.coefficients

    @property
    def is_giant(self) -> bool:
        """Whether decoding takes so much CPU that other images should not wait for it."""
        width, height = self.canvas or self.image.size
        return width * height * self._nanoseconds_a_pixel > GIANT_SECONDS * 1e9

    @property
    def _nanoseconds_a_pixel(self) -> float:
        if self.format == "JPEG":
            return _JPEG_NANOSECONDS + _PASS_NANOSECONDS * (self.scans - 1)
        if self.format == "BMP" and self.image.info.get("compression") in _RUN_LENGTH:
            return _RUN_LENGTH_NANOSECONDS
        return _NANOSECONDS_A_PIXEL[self.format]

    def check_decoding(self, max_decoded_pixels: int) -> None:
        """Check the size and the memory for decoding.

        Raises:
            PermanentError: `too_large`.
        """
        _check_size(self.image.size, max_decoded_pixels)
        if (needed := self.decoder_bytes) > MAX_DECODER_BYTES:
            megabytes = f"{needed // 1_000_000} MB of memory; {MAX_DECODER_BYTES // 1_000_000} MB are accepted"
            raise PermanentError("too_large", f"Decoding the {self.format} image would take {megabytes}.")


@contextmanager
def image_errors(source: bytes) -> Iterator[None]:
    """Translate errors inside the context. Pillow raises exceptions of any type for a broken file.

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
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"The image has more than the {Image.MAX_IMAGE_PIXELS} pixels that are accepted."
        raise PermanentError("too_large", message) from error
    except Exception as error:
        name = format_of(source)
        if name in ACCEPTED:
            raise PermanentError("broken_image", f"The {name} image is broken or incomplete.") from error
        if name:
            raise PermanentError("unsupported_format", f"{name} is not a supported image format.") from error
        raise PermanentError("not_an_image", f"The {len(source)} bytes received are not an image.") from error


def format_of(source: bytes) -> str | None:
    """Return the name of the format that the first bytes indicate, or None if they are unknown."""
    head = source[:1024]
    return next((name for name, start in _BEGINNINGS.items() if re.match(start, head, re.DOTALL)), None)


def open_image(source: bytes, max_pixels: int) -> Opened:
    """Read the header of an image of at most `max_pixels` pixels.

    Raises:
        PermanentError: `too_large`, `broken_image` or `unsupported_format`.
        Exception: of any type for a broken or unknown file; `image_errors()` translates it.
    """
    # Pillow allocates a WebP's canvas and a GIF's background while opening, and only refuses twice this limit.
    Image.MAX_IMAGE_PIXELS = max_pixels
    # By default an AVIF is decoded by as many threads as there are cores. Each takes memory, and CPU from other jobs.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    opened = _OPENERS[str(format_of(source))](source)
    for size in (opened.image.size, opened.canvas, _tile(opened.image)):
        _check_size(size or (0, 0), max_pixels)
    return opened


def _check_size(size: Size, limit: int) -> None:
    width, height = size
    if width * height > limit:
        raise PermanentError("too_large", f"The image has {width} x {height} pixels; {limit} are accepted.")
    if max(size) > MAX_SIDE:
        raise PermanentError(
            "too_large", f"The image has {width} x {height} pixels; at most {MAX_SIDE} a side are accepted."
        )


def _tile(image: Image.Image) -> Size:
    """Return the size of a TIFF's tiles, which are always decoded whole."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(ExifTags.Base.TileWidth, 0), tags.get(ExifTags.Base.TileLength, 0)


def _open_any(source: bytes) -> Opened:
    image = Image.open(BytesIO(source), formats=[str(format_of(source))])
    return Opened(
        image, source, str(image.format), orientation(image.info.get("exif", b"")), image.info.get("icc_profile")
    )


def _open_jpeg(source: bytes) -> Opened:
    jpeg = read_jpeg(source)
    if jpeg.scans > MAX_SCANS:
        raise PermanentError("too_large", f"The JPEG is coded in {jpeg.scans} passes; {MAX_SCANS} are accepted.")
    if jpeg.is_arithmetic:  # decoding takes six times as long, and no browser supports it
        raise PermanentError("unsupported_format", "The JPEG uses arithmetic coding; only Huffman coding is accepted.")
    image = Image.open(BytesIO(jpeg.picture), formats=["JPEG"])
    if jpeg.scans * image.width * image.height > MAX_SCANNED_PIXELS:
        passes = f"{jpeg.scans} passes over {image.width} x {image.height} pixels"
        raise PermanentError("too_large", f"The JPEG is coded in {passes}; {MAX_SCANNED_PIXELS} pixels are accepted.")
    image.decodermaxblock = len(jpeg.picture)  # read it at once instead of in blocks of 64 KiB
    return Opened(image, jpeg.picture, "JPEG", orientation(jpeg.exif), jpeg.profile, jpeg.coefficients, jpeg.scans)


def _open_png(source: bytes) -> Opened:
    png = read_png(source)
    image = Image.open(BytesIO(png.picture), formats=["PNG"])
    opened = Opened(image, png.picture, "PNG", orientation(png.exif), png_profile(png.colours, png.profile))
    return _on_canvas(opened, png.size, (*png.place, png.place[0] + image.width, png.place[1] + image.height))


def _open_gif(source: bytes) -> Opened:
    image = Image.open(BytesIO(source), formats=["GIF"])
    return _on_canvas(Opened(image, source, "GIF"), image.size, image.tile[0].extents or (0, 0, *image.size))


def _on_canvas(opened: Opened, size: Size, box: Box) -> Opened:
    return opened if box == (0, 0, *size) else replace(opened, canvas=size, box=box)


def _open_tiff(source: bytes) -> Opened:
    check_tiff(source)
    image = Image.open(BytesIO(source), formats=["TIFF"])
    if (compression := image.info["compression"]) not in _TIFF_COMPRESSIONS:
        raise PermanentError("unsupported_format", f"TIFF with {compression} compression is not supported.")
    return Opened(image, source, "TIFF", profile=image.info.get("icc_profile"))  # Pillow transposes it while decoding


def _open_icon(source: bytes) -> Opened:
    """Open the largest picture of an icon. Pillow would decode it before its size can be checked."""
    (count,) = struct.unpack_from("<H", source, 4)
    entries = struct.iter_unpack("<4B2H2I", source[6 : 6 + 16 * count])
    width, height, *rest, _, offset = max(entries, key=lambda each: ((each[0] or 256) * (each[1] or 256), each[5]))
    picture = source[offset:]
    if picture.startswith(b"\x89PNG"):
        return replace(_open_png(picture), format="ICO")
    wide, double_height = struct.unpack_from("<ii", picture, 4)  # the height includes the mask
    if max(abs(wide), abs(double_height) // 2) > 256:  # the directory has one byte for each side
        raise PermanentError("broken_image", f"The icon's picture claims to be {wide} pixels wide; 256 are allowed.")
    entry = struct.pack("<4B2H2I", width, height, *rest, len(picture), 22)
    icon = b"\0\0\1\0\1\0" + entry + picture
    return Opened(Image.open(BytesIO(icon), formats=["ICO"]), icon, "ICO")


#: By the result of `format_of`. Pillow alone would recognize more files as TIFF or AVIF.
_OPENERS: Final[Mapping[str, Callable[[bytes], Opened]]] = {
    "JPEG": _open_jpeg,
    "PNG": _open_png,
    "GIF": _open_gif,
    "TIFF": _open_tiff,
    "ICO": _open_icon,
    **dict.fromkeys(("WEBP", "AVIF", "BMP"), _open_any),
}
