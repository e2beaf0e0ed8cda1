"""Opening untrusted images: only allowed decoders, and every limit checked before a pixel is decoded.

Opening an image sets two of Pillow's globals. Its limit of pixels guards the memory that Pillow allocates before the
size is known here; the limits of this module are the exact ones. The other is the number of threads for an AVIF.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, Final

from PIL import AvifImagePlugin, ExifTags, Image, TiffImagePlugin

from pipeline.errors import PermanentError
from pipeline.images.colour import avif_profile, png_profile
from pipeline.images.containers.avif import Avif
from pipeline.images.containers.bitmap import Bitmap, Icon
from pipeline.images.containers.exif import orientation
from pipeline.images.containers.gif import Gif
from pipeline.images.containers.jpeg import Jpeg
from pipeline.images.containers.model import MAX_PROFILE_BYTES, Size
from pipeline.images.containers.png import Png
from pipeline.images.containers.tiff import Tiff
from pipeline.images.containers.webp import WebP
from pipeline.images.identify import check_size, read
from pipeline.images.limits import MAX_DECODER_BYTES

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

#: How Pillow's errors begin for files that are whole.
_UNSUPPORTED: Final = ("unknown pixel mode", "Unsupported BMP")

Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Opened:
    """An image whose header has been read. Its pixels are decoded on first use."""

    image: Image.Image
    picture: bytes  #: the bytes that it was opened from
    format: str  #: one of `identify.READERS`
    orientation: int = 1  #: as in EXIF, 1 to 8
    profile: bytes | None = None  #: ICC profile
    coefficients: int = 0  #: bytes that a JPEG's decoder holds at any scale
    canvas: Size | None = None  #: size of an animation whose first frame is smaller
    box: Box | None = None  #: position of that frame on the canvas

    @property
    def decoder_bytes(self) -> int:
        """Bytes of memory for decoding at the current scale."""
        width, height = self.canvas or self.image.size
        return width * height * _BYTES_A_PIXEL[self.format] + self.coefficients

    def check_decoding(self, max_decoded_pixels: int) -> None:
        """Check the size and the memory for decoding.

        Raises:
            PermanentError: `too_large`.
        """
        check_size(self.image.size, max_decoded_pixels)
        if (needed := self.decoder_bytes) > MAX_DECODER_BYTES:
            megabytes = f"{needed // 1_000_000} MB of memory; {MAX_DECODER_BYTES // 1_000_000} MB are accepted"
            raise PermanentError("too_large", f"Decoding the {self.format} image would take {megabytes}.")


def open_image(source: bytes, max_pixels: int) -> Opened:
    """Read the header of an image of at most `max_pixels` pixels.

    Raises:
        PermanentError: `too_large`, `broken_image` or `unsupported_format`.
        Exception: of any type for a broken or unknown file; `image_errors()` translates it.
    """
    name, container = read(source, max_pixels)
    return open_container(name, container, max_pixels)


def open_container(name: str, container: Any, max_pixels: int) -> Opened:
    """Open what `identify.read` returned. The errors are those of `open_image`."""
    # Pillow allocates a WebP's canvas and a GIF's background while opening, and only refuses twice this limit.
    Image.MAX_IMAGE_PIXELS = max_pixels
    # By default an AVIF is decoded by as many threads as there are cores. Each takes memory, and CPU from other jobs.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    try:
        opened = _OPENERS[name](container)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PermanentError("too_large", f"The image has more than the {max_pixels} pixels accepted.") from error
    except (OSError, SyntaxError) as error:
        if not str(error).startswith(_UNSUPPORTED):
            raise
        raise PermanentError("unsupported_format", f"The {name} image is not supported: {error}.") from error
    for size in filter(None, (opened.image.size, opened.canvas)):
        check_size(size, max_pixels)
    if opened.profile and len(opened.profile) > MAX_PROFILE_BYTES:
        return replace(opened, profile=None)
    return opened


def _pillow(picture: bytes, name: str) -> Image.Image:
    return Image.open(BytesIO(picture), formats=[name])


def _open_jpeg(jpeg: Jpeg) -> Opened:
    picture = jpeg.picture
    image = _pillow(picture, "JPEG")
    image.decodermaxblock = len(picture)  # type: ignore[attr-defined]  # read it at once, not in blocks of 64 KiB
    return Opened(image, picture, "JPEG", orientation(jpeg.exif), jpeg.profile, jpeg.coefficients)


def _open_png(png: Png) -> Opened:
    picture = png.first_frame
    image = _pillow(picture, "PNG")
    opened = Opened(image, picture, "PNG", orientation(png.exif), png_profile(png.colours, png.profile))
    return _on_canvas(opened, png.size, (*png.place, png.place[0] + image.width, png.place[1] + image.height))


def _open_gif(gif: Gif) -> Opened:
    picture = gif.first_frame
    image = _pillow(picture, "GIF")
    (tile, *_) = image.tile  # type: ignore[attr-defined]  # of this format
    return _on_canvas(Opened(image, picture, "GIF"), image.size, tile.extents or (0, 0, *image.size))


def _on_canvas(opened: Opened, size: Size, box: Box) -> Opened:
    return opened if box == (0, 0, *size) else replace(opened, canvas=size, box=box)


def _open_webp(webp: WebP) -> Opened:
    picture = webp.first_frame
    return Opened(_pillow(picture, "WEBP"), picture, "WEBP", orientation(webp.exif), webp.profile)


def _open_avif(avif: Avif) -> Opened:
    picture = avif.first_frame
    image = _pillow(picture, "AVIF")
    profile = avif_profile(avif.colours, image.info.get("icc_profile"))
    return Opened(image, picture, "AVIF", orientation(image.info.get("exif", b"")), profile)


def _open_bmp(bitmap: Bitmap) -> Opened:
    image = _pillow(bitmap.picture, "BMP")
    if image.palette:  # some contain more colours than a pixel can name, which Pillow refuses
        image.palette.palette = bytes(image.palette.palette)[: 256 * len(image.palette.rawmode or "")]
    return Opened(image, bitmap.picture, "BMP")


def _open_tiff(tiff: Tiff) -> Opened:
    TiffImagePlugin.READ_LIBTIFF = tiff.needs_libtiff
    # Not by Image.open(), which would hide that the layout of the samples is not supported.
    image = TiffImagePlugin.TiffImageFile(BytesIO(tiff.picture))
    _use_native_order(image)
    _brighten_palette(image)
    # Pillow transposes it while decoding.
    return Opened(image, tiff.picture, "TIFF", profile=image.info.get("icc_profile"))


def _use_native_order(image: TiffImagePlugin.TiffImageFile) -> None:
    """Correct Pillow, which expects numbers of 32 bits in the order of the file: libtiff returns the machine's own."""
    for tile in image.tile:
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple) and tile.args[0] in _NATIVE:
            image.tile = [tile._replace(args=(_NATIVE[tile.args[0]], *tile.args[1:]))]


_NATIVE: Final = {"F;32F": "F;32NF", "F;32BF": "F;32NF", "I;32S": "I;32NS", "I;32BS": "I;32NS"}


def _brighten_palette(image: TiffImagePlugin.TiffImageFile) -> None:
    """Correct a palette whose numbers have 8 bits instead of 16, as old writers made them. It would be black."""
    numbers = image.tag_v2.get(ExifTags.Base.ColorMap, ())
    if image.mode == "P" and numbers and max(numbers) < 256:
        image.putpalette(bytes(numbers), "RGB;L")


def _open_icon(icon: Icon) -> Opened:
    if icon.png:
        return replace(_open_png(icon.png), format="ICO")
    picture = icon.picture
    return Opened(_pillow(picture, "ICO"), picture, "ICO")


#: By format. Pillow alone would recognize more files as TIFF or AVIF.
_OPENERS: Final[Mapping[str, Callable[[Any], Opened]]] = {
    "JPEG": _open_jpeg,
    "PNG": _open_png,
    "GIF": _open_gif,
    "WEBP": _open_webp,
    "AVIF": _open_avif,
    "BMP": _open_bmp,
    "TIFF": _open_tiff,
    "ICO": _open_icon,
}
