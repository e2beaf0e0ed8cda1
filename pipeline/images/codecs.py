"""Fast replacements for slow parts of Pillow.

    resize()        with SIMD, by cykooz-resizer: 3000 x 3000 to 800 x 800 with LANCZOS in 9 ms instead of 63; or, where
                    that has no wheel (Linux on ARM), by pic-scale in 16 ms
    decode_png()    by kornia-rs: half the time of Pillow, in memory-safe code
    encode_png()    by kornia-rs: 800 x 800 in 20 ms, where Pillow's level 4 needs 69 for the same bytes

The libraries are optional. If one is missing or has changed, Pillow does the same work and makes the same pictures.
`fast_paths()` returns the libraries in use.

`decode_png()` does not check the CRC of pixel data. Times are CPU time of one core (docs/performance.md).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from typing import Any, Final, NamedTuple

from PIL import Image
from PIL.Image import Resampling

logger = logging.getLogger(__name__)

Size = tuple[int, int]  # width and height in pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom

#: Names of Pillow's kernels in cykooz-resizer.
_KERNELS: Final = {Resampling.LANCZOS: "lanczos3", Resampling.BICUBIC: "catmull_rom"}

#: The most pixels that pic-scale gets. It copies them, so larger parts need too much memory: 280 MB at 49 megapixels.
_MAX_COPIED: Final = 16_000_000

#: Modes whose four channels pic-scale resizes under another name.
_FOUR_CHANNELS: Final = ("RGBa", "CMYK")

#: Compression levels of Pillow by those of kornia-rs that make files of the same size.
_PILLOW_LEVELS: Final = {2: 4}

Shrink = Callable[[Image.Image, Size, Box, Resampling], Image.Image]


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
    if _shrink is None or image.mode not in ("L", "RGB", "RGBa", "CMYK"):
        return image.resize(size, kernel, box=box)
    return _shrink(image, size, box, kernel)


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
        "resizing": _resizer,
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


def _load_cykooz() -> Shrink:
    import cykooz_resizer  # noqa: PLC0415 - it has no wheel for Linux on ARM

    cykooz: Any = cykooz_resizer
    kernels = {kernel: getattr(cykooz.FilterType, name) for kernel, name in _KERNELS.items()}

    def shrink(image: Image.Image, size: Size, box: Box, kernel: Resampling) -> Image.Image:
        left, top, right, bottom = box
        result = Image.new(image.mode, size, None)  # None: without clearing it
        crop = cykooz.CropBox(left, top, right - left, bottom - top)
        options = cykooz.ResizeOptions(cykooz.ResizeAlg.convolution(kernels[kernel]), crop_box=crop)
        # A resizer has buffers that threads must not share, so each call makes one.
        cykooz.Resizer().resize_pil(image, result, options)
        return result

    return _tried(shrink)


def _load_pic_scale() -> Shrink:
    import pic_scale  # noqa: PLC0415 - it is only installed where cykooz-resizer has no wheel

    scale: Any = pic_scale
    kernels = {kernel: getattr(scale.Resampling, kernel.name) for kernel in _KERNELS}

    def shrink(image: Image.Image, size: Size, box: Box, kernel: Resampling) -> Image.Image:
        left, top, right, bottom = edges = tuple(map(round, box))
        is_whole = all(math.isclose(edge, side, abs_tol=0.001) for edge, side in zip(edges, box, strict=True))
        if not is_whole or (right - left) * (bottom - top) > _MAX_COPIED:
            return image.resize(size, kernel, box=box)
        part = image if edges == (0, 0, *image.size) else image.crop((left, top, right, bottom))
        if image.mode in _FOUR_CHANNELS:
            part = Image.frombuffer("RGBA", part.size, part.tobytes(), "raw", "RGBA", 0, 1)
        made: Image.Image = scale.resize(part, size, kernels[kernel], premultiply_alpha=False)
        return Image.frombytes(image.mode, size, made.tobytes()) if image.mode in _FOUR_CHANNELS else made

    return _tried(shrink)


def _tried(shrink: Shrink) -> Shrink:
    """Return `shrink` after trying it on a plain picture.

    Raises:
        ValueError: its output is wrong.
    """
    for kernel in _KERNELS:
        flat = Image.new("RGB", (4, 4), (10, 20, 30))
        _expect(shrink(flat, (2, 2), (0, 0, 4, 4), kernel), flat.resize((2, 2)))
    return shrink


def _load_kornia() -> _Png:
    import kornia_rs as kornia  # noqa: PLC0415 - importing it takes 0.1 s
    import numpy  # noqa: F401, PLC0415 - kornia-rs panics without it

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


def _find_resizer() -> tuple[str, Shrink | None]:
    """Return the first resizer that can be used, with its name; Pillow has none of this kind."""
    for name, load in (("cykooz-resizer", _load_cykooz), ("pic-scale", _load_pic_scale)):
        if shrink := _found(name, load):
            return name, shrink
    return "Pillow", None


_resizer, _shrink = _find_resizer()


@cache
def _png_codec() -> _Png | None:
    # Loaded on first use: numpy takes 0.1 s, and most processes render nothing.
    codec: _Png | None = _found("kornia-rs", _load_kornia)
    return codec
