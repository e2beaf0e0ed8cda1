"""libwebp, as Pillow has loaded it: decodes a WebP at a smaller size, which Pillow offers no other way.

Pillow promises nothing about its library, so nothing here is needed to start: where the library cannot be found, or is
not laid out as below, `decode()` takes no image, and Pillow decodes all of them.
"""

from __future__ import annotations

import ctypes
import logging
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_void_p
from typing import Final

from PIL import Image

logger = logging.getLogger(__name__)

Size = tuple[int, int]  # width and height in pixels

# What follows is <webp/decode.h>, by the ABI version there: libwebp refuses to initialize structures of another major
# version (the upper byte), and minor versions use up the padding.
# https://chromium.googlesource.com/webm/libwebp/+/refs/tags/v1.6.0/src/webp/decode.h
_ABI: Final = 0x0209
_MODE_RGB: Final = 0

#: Bytes behind a structure that must stay as they are while the library initializes it.
_MARGIN: Final = 256


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


def decode(source: bytes, size: Size) -> Image.Image | None:
    """A WebP without alpha, not animated, decoded at `size`; else None."""
    if _library is None:
        return None
    config = _DecoderConfig()
    if not _library.WebPInitDecoderConfigInternal(ctypes.byref(config), _ABI):
        return None
    (width, height), stride = size, 3 * size[0]
    pixels = bytearray(stride * height)
    target = (ctypes.c_char * len(pixels)).from_buffer(pixels)
    config.options.use_scaling, config.options.scaled_width, config.options.scaled_height = 1, width, height
    config.output.colorspace, config.output.is_external_memory = _MODE_RGB, 1
    config.output.pixels.rgba = _RGBABuffer(ctypes.addressof(target), stride, len(pixels))
    if _library.WebPDecode(source, len(source), ctypes.byref(config)):  # anything but VP8_STATUS_OK, which is 0
        return None
    return Image.frombuffer("RGB", size, pixels, "raw", "RGB", 0, 1)


def is_active() -> bool:
    """Whether it is there, and laid out as it should be."""
    return _library is not None


def _of_pillow() -> ctypes.CDLL | None:
    """The library that Pillow's own module has loaded, found through it; None where it cannot be used."""
    try:
        from PIL import _webp  # noqa: PLC0415 - Pillow may have been built without it

        library = ctypes.CDLL(_webp.__file__)  # calls release the GIL
        library.WebPInitDecoderConfigInternal.argtypes = [c_void_p, c_int]
        library.WebPDecode.argtypes = [c_char_p, c_size_t, c_void_p]
        return library if _has_our_layout(library) else None
    except Exception as error:  # whatever it is, Pillow decodes
        logger.debug("libwebp is not used: %s: %s", type(error).__name__, error)
        return None


def _has_our_layout(library: ctypes.CDLL) -> bool:
    """Whether it takes our ABI version, and a configuration is as large for it as for us: it clears just its bytes."""
    size = ctypes.sizeof(_DecoderConfig)
    config = ctypes.create_string_buffer(b"\xff" * (size + _MARGIN), size + _MARGIN)
    accepted = library.WebPInitDecoderConfigInternal(ctypes.byref(config), _ABI)
    return bool(accepted) and config.raw == bytes(size) + b"\xff" * _MARGIN


_library: Final = _of_pillow()
