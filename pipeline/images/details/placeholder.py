"""Draws the placeholder that a ThumbHash describes, for the dashboard (`thumbhash` makes them)."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from io import BytesIO
from typing import Final

from PIL import Image

#: The longest side of a placeholder in pixels. Browsers enlarge it smoothly, and each pixel costs 10 microseconds.
SIDE: Final = 16

#: What the coefficients of colours are multiplied by, because quantizing them makes colours paler.
_SATURATION: Final = 1.25


def placeholder_png(thumbhash: str) -> bytes:
    """Return the placeholder as a PNG.

    Args:
        thumbhash: in base64, either alphabet.

    Raises:
        ValueError: it is not a ThumbHash.
    """
    try:
        data = base64.b64decode(thumbhash.replace("-", "+").replace("_", "/"), validate=True)
        image = _image(data)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{thumbhash[:64]!r} is not a ThumbHash") from error
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _image(data: bytes) -> Image.Image:
    head = int.from_bytes(data[:5], "little")
    has_alpha, is_wide = bool(head >> 23 & 1), bool(head >> 39 & 1)
    most, least = 5 if has_alpha else 7, head >> 24 & 7
    across, down = (most, least) if is_wide else (least, most)
    if not least:
        raise IndexError("a side has no frequency")
    nibbles = iter([part for byte in data[5:] for part in (byte & 15, byte >> 4)])
    alpha_head = (_next(nibbles) / 15, _next(nibbles) / 15) if has_alpha else (1.0, 0.0)
    light = _Wave((head & 63) / 63, (head >> 18 & 31) / 31, max(3, across), max(3, down), nibbles)
    yellow = _Wave((head >> 6 & 63) / 31.5 - 1, (head >> 27 & 63) / 63 * _SATURATION, 3, 3, nibbles)
    red = _Wave((head >> 12 & 63) / 31.5 - 1, (head >> 33 & 63) / 63 * _SATURATION, 3, 3, nibbles)
    opacity = _Wave(*alpha_head, 5, 5, nibbles) if has_alpha else None
    if len(list(nibbles)) > 1:
        raise IndexError("the hash is too long")
    width, height = (max(1, round(SIDE * side / max(across, down))) for side in (across, down))
    pixels = bytearray()
    for y in range(height):
        for x in range(width):
            at = ((x + 0.5) / width, (y + 0.5) / height)
            pixels += _colour(light.at(*at), yellow.at(*at), red.at(*at), opacity.at(*at) if opacity else 1.0)
    return Image.frombytes("RGBA", (width, height), bytes(pixels))


def _next(nibbles: Iterator[int]) -> int:
    found = next(nibbles, None)
    if found is None:
        raise IndexError("the hash is too short")
    return found


def _colour(light: float, yellow: float, red: float, alpha: float) -> bytes:
    """Return red, green, blue and alpha of a pixel."""
    blue = light - 2 * yellow / 3
    first = (3 * light - blue + red) / 2
    return bytes(round(255 * min(1.0, max(0.0, share))) for share in (first, first - red, blue, alpha))


class _Wave:
    """One channel: its mean and the amplitudes of its frequencies."""

    def __init__(self, mean: float, scale: float, across: int, down: int, nibbles: Iterator[int]) -> None:
        self._mean = mean
        self._amplitudes = [
            (x, y, (_next(nibbles) / 7.5 - 1) * scale)
            for y in range(down)
            for x in range(across)
            if (x or y) and x * down < across * (down - y)
        ]

    def at(self, x: float, y: float) -> float:
        """Return the value at a place, of which both coordinates are from 0 to 1."""
        return self._mean + sum(
            2 * amplitude * math.cos(math.pi * across * x) * math.cos(math.pi * down * y)
            for across, down, amplitude in self._amplitudes
        )
