"""Decoding WebP at a smaller size with Pillow's copy of libwebp, because Pillow has no interface for that.

The copy is an internal of Pillow. If it cannot be found, or has another layout than below, Pillow decodes every WebP.
"""

from __future__ import annotations

import ctypes
import logging
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_void_p
from typing import Final

from PIL import Image

logger = logging.getLogger(__name__)

Size = tuple[int, int]  # width and height in pixels

# The structures of <webp/decode.h>. libwebp refuses to initialize structures of another major ABI version (the upper
# byte). Minor versions use the padding.
# https://chromium.googlesource.com/webm/libwebp/+/refs/tags/v1.6.0/src/webp/decode.h
_ABI: Final = 0x0209
_MODE_RGB: Final = 0

#: Bytes after the structure that libwebp must not change when it initializes the structure.
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
    """Decode a WebP without alpha or animation at `size`, or return None if Pillow has to decode it."""
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
    if _library.WebPDecode(source, len(source), ctypes.byref(config)):  # VP8_STATUS_OK is 0
        return None
    return Image.frombuffer("RGB", size, pixels, "raw", "RGB", 0, 1)


def is_active() -> bool:
    """Return whether `decode` can be used in this process."""
    return _library is not None


def _of_pillow() -> ctypes.CDLL | None:
    """Return the library that Pillow's module has loaded, or None if it cannot be used."""
    try:
        from PIL import _webp  # noqa: PLC0415 - Pillow may have been built without it

        library = ctypes.CDLL(_webp.__file__)  # calls through CDLL release the GIL
        library.WebPInitDecoderConfigInternal.argtypes = [c_void_p, c_int]
        library.WebPDecode.argtypes = [c_char_p, c_size_t, c_void_p]
        return library if _has_our_layout(library) else None
    except Exception as error:  # Pillow decodes instead
        logger.debug("Not using libwebp: %s: %s", type(error).__name__, error)
        return None


def _has_our_layout(library: ctypes.CDLL) -> bool:
    """Return whether the library accepts our ABI version, and its configuration has the size of ours.

    Initialization clears exactly the bytes that the library takes for its configuration.
    """
    size = ctypes.sizeof(_DecoderConfig)
    config = ctypes.create_string_buffer(b"\xff" * (size + _MARGIN), size + _MARGIN)
    accepted = library.WebPInitDecoderConfigInternal(ctypes.byref(config), _ABI)
    return bool(accepted) and config.raw == bytes(size) + b"\xff" * _MARGIN


_library: Final = _of_pillow()
