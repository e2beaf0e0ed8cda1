"""Codecs: what Pillow does right but slowly, done fast, into and out of Pillow's images.

    resize()        with SIMD, by cykooz-resizer: 3000 x 3000 to 800 x 800 by LANCZOS in 9 ms instead of 63
    decode_png()    by kornia-rs: inflates and unfilters in half of Pillow's time, in memory-safe code
    encode_png()    by kornia-rs: 20 ms at 800 x 800, as Pillow's level 4 takes 69 for the same bytes
    decode_webp()   at a smaller size, by the libwebp inside Pillow (pipeline.images.libwebp)

None of these libraries is needed: where one is missing, or is not as it was, Pillow does the same work and makes the
same pictures. `fast_paths()` returns what is used.

A decoder returns None for whatever it does not take, most broken files among them: Pillow then decodes, or says what
is wrong. Checksums of a PNG's pixels are not looked at. Times are CPU of one core (docs/performance.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from typing import Any, Final, NamedTuple

from PIL import Image
from PIL.Image import Resampling

from pipeline.images import libwebp

logger = logging.getLogger(__name__)

Size = tuple[int, int]  # width and height in pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom

#: What cykooz-resizer calls Pillow's kernels.
_KERNELS: Final = {Resampling.LANCZOS: "lanczos3", Resampling.BICUBIC: "catmull_rom"}

#: Pillow's level of compression that gives as many bytes as each of kornia-rs's.
_PILLOW_LEVELS: Final = {2: 4}

Shrink = Callable[[Image.Image, Size, Box, Resampling], Image.Image]


class _Png(NamedTuple):
    """A codec for PNG. Modes are RGB and RGBA."""

    decode: Callable[[bytes, Size, str], Image.Image]
    encode: Callable[[Image.Image, int], bytes]


def resize(image: Image.Image, size: Size, box: Box, kernel: Resampling) -> Image.Image:
    """`box` of the image at `size`: by `kernel`, LANCZOS or BICUBIC, where it becomes smaller; else by BICUBIC."""
    left, top, right, bottom = box
    if right - left < size[0] or bottom - top < size[1]:
        # The gap bounds what Pillow keeps of an image that becomes wider and much lower.
        return image.resize(size, Resampling.BICUBIC, box=box, reducing_gap=2.0)
    if _shrink is None or image.mode not in ("L", "RGB", "RGBa", "CMYK"):
        return image.resize(size, kernel, box=box)
    return _shrink(image, size, box, kernel)


def decode_png(source: bytes, size: Size, mode: str) -> Image.Image | None:
    """A PNG of 8 bits a channel, not of a palette, in its size and mode, RGB or RGBA; else None. Holds the GIL."""
    codec = _png_codec()
    try:
        return codec.decode(source, size, mode) if codec else None
    except Exception:
        return None


def encode_png(image: Image.Image, *, level: int) -> bytes:
    """An image of mode RGB or RGBA as PNG. Level 2 is the fastest that is good on both photographs and flat colours."""
    if codec := _png_codec():
        return codec.encode(image, level)
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=_PILLOW_LEVELS[level])
    return buffer.getvalue()


def fast_paths() -> Mapping[str, str]:
    """What does each kind of work in this process: the fast library, or Pillow in its place."""
    return {
        "PNG": "kornia-rs" if _png_codec() else "Pillow",
        "resizing": "cykooz-resizer" if _shrink else "Pillow",
        "WebP": "libwebp" if libwebp.is_active() else "Pillow",
    }


def _found(name: str, load: Callable[[], Any]) -> Any:
    """What `load` returns; None where it fails: the library is missing, or has changed, and Pillow does its work."""
    try:
        return load()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # Rust's, in Python
            raise
        logger.debug("%s is not used: %s: %s", name, type(error).__name__, error)
        return None


def _load_cykooz() -> Shrink:
    import cykooz_resizer  # noqa: PLC0415 - no wheel for Linux on ARM

    cykooz: Any = cykooz_resizer

    kernels = {kernel: getattr(cykooz.FilterType, name) for kernel, name in _KERNELS.items()}

    def shrink(image: Image.Image, size: Size, box: Box, kernel: Resampling) -> Image.Image:
        left, top, right, bottom = box
        result = Image.new(image.mode, size, None)  # None: not filled first
        crop = cykooz.CropBox(left, top, right - left, bottom - top)
        options = cykooz.ResizeOptions(cykooz.ResizeAlg.convolution(kernels[kernel]), crop_box=crop)
        # A resizer each time: one has buffers of its own, and must not be shared by threads.
        cykooz.Resizer().resize_pil(image, result, options)
        return result

    for kernel in kernels:
        flat = Image.new("RGB", (4, 4), (10, 20, 30))
        _expect(shrink(flat, (2, 2), (0, 0, 4, 4), kernel), flat.resize((2, 2)))
    return shrink


def _load_kornia() -> _Png:
    import kornia_rs as kornia  # noqa: PLC0415 - takes 0.1 s
    import numpy  # noqa: F401, PLC0415 - kornia-rs needs it, and panics without

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
        raise ValueError("it does not make the picture that was expected")


_shrink: Shrink | None = _found("cykooz-resizer", _load_cykooz)


@cache
def _png_codec() -> _Png | None:
    """Looked for at first use: numpy takes 0.1 s, which a child for an AVIF has no use for."""
    codec: _Png | None = _found("kornia-rs", _load_kornia)
    return codec
