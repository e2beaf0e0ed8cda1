"""Codecs: what Pillow does right but slowly, done fast, into and out of Pillow's images.

    resize()        with SIMD, by cykooz-resizer: 3000 x 3000 to 800 x 800 by LANCZOS in 9 ms instead of 63
    decode_png()    by kornia-rs: inflates and unfilters in half of Pillow's time, in memory-safe code
    encode_png()    by kornia-rs: 20 ms at 800 x 800, as Pillow's level 4 takes 69 for the same bytes
    decode_webp()   at a smaller size, by the libwebp inside Pillow, which offers it no other way

A decoder returns None for whatever it does not take, most broken files among them: Pillow then decodes, or says what
is wrong. Checksums of a PNG's pixels are not looked at. Times are CPU of one core (docs/performance.md).
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_void_p
from functools import cache
from typing import Any, Final

from PIL import Image, _imaging, _webp
from PIL.Image import Resampling

cykooz: Any = None
with suppress(ImportError):  # no wheel for Linux on ARM: there Pillow makes much the same pictures, more slowly
    import cykooz_resizer as cykooz

# Pillow keeps so many blocks of 16 MiB for the next image. To have the system clear new pages for every image took a
# fifth of its CPU. https://pillow.readthedocs.io/en/stable/reference/block_allocator.html
_imaging.set_blocks_max(2)

Size = tuple[int, int]  # width and height in pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom

#: What cykooz-resizer calls Pillow's kernels.
_KERNELS: Final = {Resampling.LANCZOS: "lanczos3", Resampling.BICUBIC: "catmull_rom"}


def resize(image: Image.Image, size: Size, box: Box, kernel: Resampling) -> Image.Image:
    """`box` of the image at `size`: by `kernel`, LANCZOS or BICUBIC, where it becomes smaller; else by BICUBIC."""
    left, top, right, bottom = box
    if right - left < size[0] or bottom - top < size[1]:
        # The gap bounds what Pillow keeps of an image that becomes wider and much lower.
        return image.resize(size, Resampling.BICUBIC, box=box, reducing_gap=2.0)
    if cykooz is None or image.mode not in ("L", "RGB", "RGBa", "CMYK"):
        return image.resize(size, kernel, box=box)
    result = Image.new(image.mode, size, None)  # None: not filled first
    convolution = cykooz.ResizeAlg.convolution(getattr(cykooz.FilterType, _KERNELS[kernel]))
    crop = cykooz.CropBox(left, top, right - left, bottom - top)
    # A resizer each time: one has buffers of its own, and must not be shared by threads.
    cykooz.Resizer().resize_pil(image, result, cykooz.ResizeOptions(convolution, crop_box=crop))
    return result


@cache
def _kornia() -> Any:
    import kornia_rs  # noqa: PLC0415 - it brings numpy along: 0.1 s that a child for an AVIF has no use for

    return kornia_rs


def decode_png(source: bytes, size: Size, mode: str) -> Image.Image | None:
    """A PNG of 8 bits a channel, not of a palette, in its size and mode, RGB or RGBA; else None. Holds the GIL."""
    try:
        pixels = _kornia().io.decode_image_png_u8(source, size[::-1], mode.lower())
    except Exception:
        return None
    return Image.frombuffer(mode, size, pixels, "raw", mode, 0, 1)


def encode_png(image: Image.Image, *, level: int) -> bytes:
    """An image of mode RGB or RGBA as PNG. Level 2 is the fastest that is good on both photographs and flat colours."""
    pixels = _kornia().image.Image.frombytes(image.tobytes(), *image.size, len(image.mode))
    return bytes(pixels.encode("png", compress_level=level))


def decode_webp(source: bytes, size: Size) -> Image.Image | None:
    """A WebP without alpha, not animated, decoded at `size`; else None."""
    if _libwebp is None:
        return None
    config = _DecoderConfig()
    if not _libwebp.WebPInitDecoderConfigInternal(ctypes.byref(config), _ABI):
        return None
    (width, height), stride = size, 3 * size[0]
    pixels = bytearray(stride * height)
    target = (ctypes.c_char * len(pixels)).from_buffer(pixels)
    config.options.use_scaling, config.options.scaled_width, config.options.scaled_height = 1, width, height
    config.output.colorspace, config.output.is_external_memory = _MODE_RGB, 1
    config.output.pixels.rgba = _RGBABuffer(ctypes.addressof(target), stride, len(pixels))
    if _libwebp.WebPDecode(source, len(source), ctypes.byref(config)):  # anything but VP8_STATUS_OK, which is 0
        return None
    return Image.frombuffer("RGB", size, pixels, "raw", "RGB", 0, 1)


# What follows is <webp/decode.h>. libwebp refuses to initialize structures of another major version (the upper byte).
_ABI: Final = 0x0209
_MODE_RGB: Final = 0


class _RGBABuffer(ctypes.Structure):
    _fields_ = (("rgba", c_void_p), ("stride", c_int), ("size", c_size_t))


class _YUVABuffer(ctypes.Structure):
    _fields_ = (("planes", c_void_p * 4), ("strides", c_int * 4), ("sizes", c_size_t * 4))


class _Pixels(ctypes.Union):
    _fields_ = (("rgba", _RGBABuffer), ("yuva", _YUVABuffer))


class _DecBuffer(ctypes.Structure):
    _fields_ = (
        *((name, c_int) for name in ("colorspace", "width", "height", "is_external_memory")),
        ("pixels", _Pixels),
        ("pad", c_uint32 * 4),
        ("private_memory", c_void_p),
    )


class _BitstreamFeatures(ctypes.Structure):
    _fields_ = (
        *((name, c_int) for name in ("width", "height", "has_alpha", "has_animation", "format")),
        ("pad", c_uint32 * 5),
    )


class _DecoderOptions(ctypes.Structure):
    _fields_ = (
        *((name, c_int) for name in ("bypass_filtering", "no_fancy_upsampling")),
        *((name, c_int) for name in ("use_cropping", "crop_left", "crop_top", "crop_width", "crop_height")),
        *((name, c_int) for name in ("use_scaling", "scaled_width", "scaled_height")),
        *((name, c_int) for name in ("use_threads", "dithering_strength", "flip", "alpha_dithering_strength")),
        ("pad", c_uint32 * 5),
    )


class _DecoderConfig(ctypes.Structure):
    _fields_ = (("input", _BitstreamFeatures), ("output", _DecBuffer), ("options", _DecoderOptions))


def _libwebp_of_pillow() -> ctypes.CDLL | None:
    """The library that Pillow's own module has loaded, found through it; None where it can't be."""
    try:
        library = ctypes.CDLL(_webp.__file__)  # calls release the GIL
        library.WebPInitDecoderConfigInternal.argtypes = [c_void_p, c_int]
        library.WebPDecode.argtypes = [c_char_p, c_size_t, c_void_p]
    except (OSError, AttributeError):
        return None
    return library


_libwebp: Final = _libwebp_of_pillow()
