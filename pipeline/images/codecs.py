"""Fast replacements for slow parts of Pillow.

    resize()        with SIMD, by pic-scale: 3000 x 3000 to 800 x 800 with LANCZOS in 16 ms instead of 63
    decode_png()    by kornia-rs: half the time of Pillow, in memory-safe code
    encode_png()    by kornia-rs: 800 x 800 in 20 ms, where Pillow's level 4 needs 69 for the same bytes

The libraries are optional. If one is missing or has changed, Pillow does the same work and makes the same pictures.
`fast_paths()` returns the libraries in use.

`decode_png()` does not check the CRC of pixel data. Times are CPU time of one core (docs/performance.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from typing import Any, Final, NamedTuple

from PIL import Image
from PIL.Image import Resampling

logger = logging.getLogger(__name__)

Size = tuple[int, int]  # width and height in pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom

#: The most pixels that pic-scale gets. It copies them, so larger parts need too much memory: 280 MB at 49 megapixels.
_MAX_COPIED: Final = 4096 * 4096

#: Modes whose four channels pic-scale resizes under another name.
_FOUR_CHANNELS: Final = ("RGBa", "CMYK")

#: Compression levels of Pillow by those of kornia-rs that make files of the same size.
_PILLOW_LEVELS: Final = {2: 4}

Shrink = Callable[[Image.Image, Size, tuple[int, int, int, int], Resampling], Image.Image]


class _Png(NamedTuple):
    """A PNG codec for images of mode RGB or RGBA."""

    decode: Callable[[bytes, Size, str], Image.Image]
    encode: Callable[[Image.Image, int], bytes]


def resize(image: Image.Image, size: Size, box: Box, kernel: Resampling) -> Image.Image:
    """Resize a part of an image.

    Args:
        image: a decoded image. Its alpha, if any, is premultiplied.
        size: of the result.
        box: the part of the image.
        kernel: LANCZOS or BICUBIC, used to make the part smaller. Enlarging always uses BICUBIC.
    """
    left, top, right, bottom = box
    if right - left < size[0] or bottom - top < size[1]:
        # The gap limits the memory for an image that becomes wider and much lower.
        return image.resize(size, Resampling.BICUBIC, box=box, reducing_gap=2.0)
    pixels = _whole(box)
    if _shrink is None or image.mode not in ("L", "RGB", "RGBa", "CMYK"):
        return image.resize(size, kernel, box=pixels)
    return _shrink(image, size, pixels, kernel)


def _whole(box: Box) -> tuple[int, int, int, int]:
    """Return the box moved and widened by under a pixel to whole ones, which pic-scale needs."""
    left, top = int(box[0]), int(box[1])
    return left, top, left + round(box[2] - box[0]), top + round(box[3] - box[1])


def decode_png(source: bytes, size: Size, mode: str) -> Image.Image | None:
    """Decode a PNG with 8 bits per channel and no palette, holding the GIL.

    Args:
        source: the PNG.
        size: its size, from its header.
        mode: its mode, RGB or RGBA.

    Returns:
        The image, or None if Pillow has to decode the PNG or report its error.
    """
    codec = _png_codec()
    try:
        return codec.decode(source, size, mode) if codec else None
    except Exception:
        return None


def encode_png(image: Image.Image, *, level: int) -> bytes:
    """Encode an image of mode RGB or RGBA as PNG.

    Level 2 is the fastest that compresses both photographs and flat colours well.
    """
    if codec := _png_codec():
        return codec.encode(image, level)
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=_PILLOW_LEVELS[level])
    return buffer.getvalue()


def fast_paths() -> Mapping[str, str]:
    """Return the library for each kind of work in this process: the fast one, or Pillow."""
    return {
        "PNG": "kornia-rs" if _png_codec() else "Pillow",
        "resizing": "pic-scale" if _shrink else "Pillow",
    }


def _found(name: str, load: Callable[[], Any]) -> Any:
    """Return the result of `load`, or None if it fails because the library is missing or has changed."""
    try:
        return load()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # a panic in Rust
            raise
        logger.debug("Not using %s: %s: %s", name, type(error).__name__, error)
        return None


def _load_pic_scale() -> Shrink:
    import pic_scale  # noqa: PLC0415 - optional

    scale: Any = pic_scale
    kernels = {kernel: getattr(scale.Resampling, kernel.name) for kernel in (Resampling.LANCZOS, Resampling.BICUBIC)}

    def shrink(image: Image.Image, size: Size, box: tuple[int, int, int, int], kernel: Resampling) -> Image.Image:
        left, top, right, bottom = box
        if (right - left) * (bottom - top) > _MAX_COPIED:
            return image.resize(size, kernel, box=box)
        part = image if box == (0, 0, *image.size) else image.crop(box)
        if image.mode in _FOUR_CHANNELS:
            part = Image.frombuffer("RGBA", part.size, part.tobytes(), "raw", "RGBA", 0, 1)
        made: Image.Image = scale.resize(part, size, kernels[kernel], premultiply_alpha=False)
        return Image.frombytes(image.mode, size, made.tobytes()) if image.mode in _FOUR_CHANNELS else made

    for kernel in kernels:
        flat = Image.new("RGB", (4, 4), (10, 20, 30))
        _expect(shrink(flat, (2, 2), (0, 0, 4, 4), kernel), flat.resize((2, 2)))
    return shrink


def _load_kornia() -> _Png:
    import kornia_rs as kornia  # noqa: PLC0415 - importing it takes 0.1 s; it panics without numpy

    def decode(source: bytes, size: Size, mode: str) -> Image.Image:
        pixels = kornia.io.decode_image_png_u8(source, size[::-1], mode.lower())
        return Image.frombuffer(mode, size, pixels, "raw", mode, 0, 1)

    def encode(image: Image.Image, level: int) -> bytes:
        pixels = kornia.image.Image.frombytes(image.tobytes(), *image.size, len(image.mode))
        return bytes(pixels.encode("png", compress_level=level))

    for mode in ("RGB", "RGBA"):
        image = Image.linear_gradient("L").resize((3, 2)).convert(mode)
        for level in _PILLOW_LEVELS:
            _expect(decode(encode(image, level), image.size, mode), image)
    return _Png(decode, encode)


def _expect(made: Image.Image, expected: Image.Image) -> None:
    if (made.mode, made.size, made.tobytes()) != (expected.mode, expected.size, expected.tobytes()):
        raise ValueError("its output is not as expected")


_shrink: Shrink | None = _found("pic-scale", _load_pic_scale)


@cache
def _png_codec() -> _Png | None:
    # Loaded on first use: kornia-rs and numpy take 0.1 s, and most processes render nothing.
    codec: _Png | None = _found("kornia-rs", _load_kornia)
    return codec
