"""Opening what strangers send: an allow-list of decoders, and every limit checked before a pixel is decoded.

Two of Pillow's globals are set each time an image is opened: its limit of pixels, which guards the memory that Pillow
allocates before the size is known here, and the threads that decode an AVIF.
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

#: What decoding one image may hold, in bytes: 1 GiB less 100 MB for the process, and less twice MAX_SOURCE_BYTES
#: (50 MB), for the source may be copied.
MAX_DECODER_BYTES: Final = 850_000_000
#: Neither side is longer: as long as a JPEG's or GIF's can be.
MAX_SIDE: Final = 65_535
#: A JPEG's passes over its picture; encoders write 10, and 250 bytes make one.
MAX_SCANS: Final = 200
#: Pixels of all passes together: 14 of 178 megapixels. A pass that refines takes 0.65 s for a thousand million.
MAX_SCANNED_PIXELS: Final = 2_500_000_000

#: Pillow opens 43 formats unless told; EPS among them starts Ghostscript.
ACCEPTED: Final = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO")

#: Bytes for each pixel that is decoded, as measured: the decoder's own, Pillow's, and what they become for resizing.
_BYTES_A_PIXEL: Final[Mapping[str, int]] = {
    "JPEG": 4,  # and its coefficients
    "PNG": 13,
    "GIF": 6,
    "BMP": 9,
    "ICO": 13,
    "TIFF": 14,  # a strip or tile may be the whole image
    "WEBP": 17,  # two canvases; a copy of one in bytes
    "AVIF": 14,  # planes; RGBA; a copy of it in bytes. More of over 8 bits or in a grid, which Pillow does not tell
}

#: Compressions of TIFF that are in use for pictures; the others bring decoders of their own.
_TIFF_COMPRESSIONS: Final = {
    "raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg", "tiff_jpeg",
    "tiff_ccitt", "group3", "group4", "tiff_raw_16",
}  # fmt: skip

#: How a source that Pillow can't open begins, and what a person would call it. Only the first kilobyte is looked at.
_BEGINNINGS: Final = {
    "AVIF": rb"....ftyp(?:.{4}){0,16}?avi[fs]",  # before HEIC: some name both
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
    "BMP": rb"BM(?:.{4}\0{4}|.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0)",  # or the size of a known header
    "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "ICO": rb"\0\0\x01\0",
}

Size = tuple[int, int]  # width and height in pixels
Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Opened:
    """An image whose header has been read; its pixels are decoded when they are first used."""

    image: Image.Image
    picture: bytes  #: what it was opened from
    format: str  #: one of `ACCEPTED`
    orientation: int = 1  #: as in EXIF, 1 to 8
    profile: bytes | None = None  #: ICC
    coefficients: int = 0  #: bytes that a JPEG's decoder holds, whatever the scale
    canvas: Size | None = None  #: of an animation whose first frame is smaller
    box: Box | None = None  #: where on the canvas that frame lies

    @property
    def has_alpha(self) -> bool:
        return bool(self.image.has_transparency_data or self.canvas)

    @property
    def decoder_bytes(self) -> int:
        """The memory that decoding it takes, at the scale that it is decoded at."""
        width, height = self.canvas or self.image.size
        return width * height * _BYTES_A_PIXEL[self.format] + self.coefficients

    def check_decoding(self, max_decoded_pixels: int) -> None:
        """Raises `too_large` for what would take too many pixels or too much memory to decode."""
        _check_size(self.image.size, max_decoded_pixels)
        if (needed := self.decoder_bytes) > MAX_DECODER_BYTES:
            megabytes = f"{needed // 1_000_000} MB of memory; {MAX_DECODER_BYTES // 1_000_000} MB are accepted"
            raise PermanentError("too_large", f"Decoding the {self.format} image would take {megabytes}.")


@contextmanager
def image_errors(source: bytes) -> Iterator[None]:
    """Whatever goes wrong inside, said in our words: Pillow raises any type of exception on a broken file."""
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
    """What the source seems to be by its first bytes, as a person would call it."""
    head = source[:1024]
    return next((name for name, start in _BEGINNINGS.items() if re.match(start, head, re.DOTALL)), None)


def open_image(source: bytes, max_pixels: int) -> Opened:
    """The image with its header read, of at most `max_pixels` pixels. What goes wrong is for `image_errors()`."""
    # Pillow allocates a WebP's canvas and a GIF's background while opening, and refuses only twice this limit.
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
        raise PermanentError("too_large", f"The image is {width} x {height} pixels; {limit} in all are accepted.")
    if max(size) > MAX_SIDE:
        raise PermanentError("too_large", f"The image is {width} x {height} pixels; {MAX_SIDE} a side are accepted.")


def _tile(image: Image.Image) -> Size:
    """The size of a TIFF's tiles: one is decoded whole, whatever the size of the image."""
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
    if jpeg.is_arithmetic:  # takes six times as long, and no browser shows it
        raise PermanentError("unsupported_format", "The JPEG is coded by arithmetic; only Huffman coding is accepted.")
    image = Image.open(BytesIO(jpeg.picture), formats=["JPEG"])
    if jpeg.scans * image.width * image.height > MAX_SCANNED_PIXELS:
        passes = f"{jpeg.scans} passes over {image.width} x {image.height} pixels"
        raise PermanentError("too_large", f"The JPEG is coded in {passes}; {MAX_SCANNED_PIXELS} pixels are accepted.")
    image.decodermaxblock = len(jpeg.picture)  # all of it at once, not 64 KiB and what was left of the last
    return Opened(image, jpeg.picture, "JPEG", orientation(jpeg.exif), jpeg.profile, jpeg.coefficients)


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
        raise PermanentError("unsupported_format", f"TIFF with the compression {compression} is not supported.")
    return Opened(image, source, "TIFF", profile=image.info.get("icc_profile"))  # Pillow turns it while decoding


def _open_icon(source: bytes) -> Opened:
    """The largest picture of an icon. Pillow would decode it before anybody has seen how large it is."""
    (count,) = struct.unpack_from("<H", source, 4)
    entries = struct.iter_unpack("<4B2H2I", source[6 : 6 + 16 * count])
    width, height, *rest, _, offset = max(entries, key=lambda each: ((each[0] or 256) * (each[1] or 256), each[5]))
    picture = source[offset:]
    if picture.startswith(b"\x89PNG"):
        return replace(_open_png(picture), format="ICO")
    wide, double_height = struct.unpack_from("<ii", picture, 4)  # of a bitmap, and below it its mask
    if max(abs(wide), abs(double_height) // 2) > 256:  # an icon's directory has a byte for each
        raise PermanentError("broken_image", f"The icon's picture claims to be {wide} pixels wide; 256 is the most.")
    entry = struct.pack("<4B2H2I", width, height, *rest, len(picture), 22)
    icon = b"\0\0\1\0\1\0" + entry + picture
    return Opened(Image.open(BytesIO(icon), formats=["ICO"]), icon, "ICO")


#: By what the first bytes say, and nothing else: Pillow takes more for a TIFF or AVIF than `format_of` does.
_OPENERS: Final[Mapping[str, Callable[[bytes], Opened]]] = {
    "JPEG": _open_jpeg,
    "PNG": _open_png,
    "GIF": _open_gif,
    "TIFF": _open_tiff,
    "ICO": _open_icon,
    **dict.fromkeys(("WEBP", "AVIF", "BMP"), _open_any),
}
