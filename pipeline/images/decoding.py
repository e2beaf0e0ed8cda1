"""Decoding: from an opened image to pixels that can be resized."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import isfinite
from typing import Final, cast

from PIL import ExifTags, Image

from pipeline.errors import PermanentError
from pipeline.images import codecs
from pipeline.images.containers.png import has_all_rows
from pipeline.images.opening import Opened

#: Pixels to convert at a time, which avoids another copy of the whole image.
_BAND: Final = 1_048_576

#: Conversions, by mode, of images that cannot be resized as they are.
_CONVERSIONS: Final = {
    "1": ("L",),
    "P": ("RGB",),
    "RGBX": ("RGB",),
    "LA": ("La",),
    "RGBA": ("RGBa",),
    "PA": ("RGBA", "RGBa"),
}
#: The same for images in which a grey, a colour or entries of the palette are transparent.
_KEYED_CONVERSIONS: Final = {
    "1": ("LA", "La"),
    "L": ("LA", "La"),
    "P": ("RGBA", "RGBa"),
    "RGB": ("RGBA", "RGBa"),
}


def decode(opened: Opened) -> Image.Image:
    """Decode the pixels as stored: neither upright nor in sRGB, because both are cheaper after resizing.

    Args:
        opened: the image.

    Returns:
        An image of 8 bits in mode L, La, RGB, RGBa, CMYK, YCbCr or LAB; its alpha, if any, is premultiplied.

    Raises:
        Exception: of any type for a broken file; `image_errors()` translates it.
    """
    fast = _decode_fast(opened)
    if fast is not None:
        return _plain(fast)
    if opened.format == "PNG" and not has_all_rows(opened.picture):
        raise ValueError("rows are missing")
    opened.image.load()
    if opened.canvas is None or opened.box is None:
        return _plain(opened.image)
    part = _plain(opened.image.crop(opened.box) if opened.image.size == opened.canvas else opened.image)
    canvas = Image.new("RGBa", opened.canvas)
    modes = {"RGBa": (), "La": ("LA", "RGBA", "RGBa")}.get(part.mode, ("RGBA", "RGBa"))
    canvas.paste(_converted(part, modes), opened.box)
    return canvas


def _decode_fast(opened: Opened) -> Image.Image | None:
    """Decode with a fast codec, or return None if Pillow has to decode the image or report its error."""
    image = opened.image
    if opened.canvas or "transparency" in image.info or opened.format != "PNG" or image.mode not in ("RGB", "RGBA"):
        return None
    return codecs.decode_png(opened.picture, image.size, image.mode)


def _plain(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":
        return _eight_bits(image)
    if image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema() == (255, 255):
        return _converted(image, (image.mode[:-1],))
    return _converted(image, (_KEYED_CONVERSIONS if "transparency" in image.info else _CONVERSIONS).get(image.mode, ()))


def _converted(image: Image.Image, modes: tuple[str, ...]) -> Image.Image:
    return _in_bands(image, modes[-1], lambda band: reduce(Image.Image.convert, modes, band)) if modes else image


def _in_bands(image: Image.Image, mode: str, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    result = Image.new(mode, image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        bounds = (0, top, image.width, min(top + rows, image.height))
        result.paste(change(image.crop(bounds)), bounds)
    return result


# Grey of more than 8 bits

_SIGNED: Final = 2  # TIFF's sample format of signed integers


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey of 12, 16 or 32 bits, or of floats."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    is_negative = tags.get(ExifTags.Base.PhotometricInterpretation) == 0
    if not image.mode.startswith("I;16"):
        return _scaled(image, _white(image), is_negative)
    white = 2 ** tags.get(ExifTags.Base.BitsPerSample, (16,))[0] - 1
    levels = [min(255, (value * 255 + white // 2) // white) for value in range(65_536)]
    levels = levels if not is_negative else [255 - level for level in levels]
    hidden = image.info.get("transparency")
    if not isinstance(hidden, int):
        return _in_bands(image, "L", lambda band: band.convert("I").point(levels, "L"))
    opacity = [255 * (value != hidden) for value in range(65_536)]

    def keyed(band: Image.Image) -> Image.Image:
        values = band.convert("I")
        return Image.merge("LA", (values.point(levels, "L"), values.point(opacity, "L"))).convert("La")

    return _in_bands(image, "La", keyed)


def _white(image: Image.Image) -> float:
    """Guess the value of white for 32 bits or floats, which files do not contain.

    It is the smallest usual value that is at least as large as the brightest pixel. Floats may exceed it by under 1,
    because filters overshoot at edges.

    Raises:
        PermanentError: `unsupported_format`: there are numbers that no guess fits. Pillow reads unsigned ones of 32
            bits as signed.
    """
    low, top = cast("tuple[float, float]", image.getextrema())  # of the image's one channel
    if not isfinite(top) or (image.mode == "I" and low < 0):
        message = "The image has pixels that are negative, not finite, or above 2,147,483,647; these are not supported."
        raise PermanentError("unsupported_format", message)
    is_signed = getattr(image, "tag_v2", {}).get(ExifTags.Base.SampleFormat) == (_SIGNED,)
    largest = 2_147_483_647.0 if is_signed else 4_294_967_295.0
    usual: tuple[float, ...] = (*([1.0] if image.mode == "F" else []), 255.0, 65_535.0, largest)
    return next((white for white in usual if top < white + 1), usual[-1])


def _scaled(image: Image.Image, white: float, is_negative: bool) -> Image.Image:
    scale, offset = (-255 / white, 255.5) if is_negative else (255 / white, 0.5)
    return _in_bands(image, "L", lambda band: band.point(lambda value: value * scale + offset).convert("L"))
