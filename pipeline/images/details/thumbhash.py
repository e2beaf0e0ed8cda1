"""ThumbHash: a placeholder of about 25 bytes for a picture (https://evanw.github.io/thumbhash).

The hash has the lowest frequencies of a discrete cosine transform: of lightness, of two colour differences and, if
anything is transparent, of alpha. Written from the public description, because the packages for Python are either
unmaintained or need a compiler of another language.

The transform is two products of small matrices, and the second also mixes the channels from the bands of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

#: The longest side of a picture that is hashed. The highest frequency has six half-waves, and a larger picture would
#: change few hashes.
SIDE: Final = 32

#: The shares of red, green, blue and alpha in each channel: lightness, yellow less blue, red less green, and alpha.
_SHARES: Final = ((1 / 3, 1 / 3, 1 / 3, 0), (1 / 2, 1 / 2, -1, 0), (1, -1, 0, 0), (0, 0, 0, 1))

Matrix = Sequence[Sequence[float]]


class Hashed(NamedTuple):
    """The placeholder of a picture, and the mean of its pixels."""

    thumbhash: bytes
    colour: tuple[int, int, int]  #: red, green and blue, in which transparent pixels count as little as they are seen


def hashed(image: Image.Image) -> Hashed:
    """Return the hash and the mean of a small picture.

    Args:
        image: of mode RGB or RGBA, with sides of at most 100 pixels.
    """
    width, height = image.size
    has_alpha = image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
    most = 5 if has_alpha else 7
    across, down = (max(1, _rounded(most * side / max(width, height))) for side in (width, height))
    sizes = _Sizes(max(3, across), max(3, down), has_alpha)
    light, yellow, red, *alpha = _channels(image.convert("RGBa" if has_alpha else "RGB"), sizes)
    is_wide = width > height
    head = (
        _rounded(63 * light.mean)
        | _rounded(31.5 + 31.5 * yellow.mean) << 6
        | _rounded(31.5 + 31.5 * red.mean) << 12
        | _rounded(31 * light.scale) << 18
        | has_alpha << 23
        | (down if is_wide else across) << 24
        | _rounded(63 * yellow.scale) << 27
        | _rounded(63 * red.scale) << 33
        | is_wide << 39
    )
    nibbles = [_rounded(15 * value) for opacity in alpha for value in (opacity.mean, opacity.scale)]
    for channel in (light, yellow, red, *alpha):
        nibbles += channel.nibbles()
    nibbles += [0] * (len(nibbles) % 2)
    pairs = zip(nibbles[::2], nibbles[1::2], strict=True)
    return Hashed(head.to_bytes(5, "little") + bytes(low | high << 4 for low, high in pairs), _mean(light, yellow, red))


def _mean(light: _Channel, yellow: _Channel, red: _Channel) -> tuple[int, int, int]:
    """Undo `_SHARES` for the means of the channels."""
    base = light.mean + yellow.mean / 3
    shares = (base + red.mean / 2, base - red.mean / 2, light.mean - 2 * yellow.mean / 3)
    r, g, b = (min(255, max(0, _rounded(255 * share))) for share in shares)
    return r, g, b


class _Sizes(NamedTuple):
    """How many frequencies of lightness are needed in each direction. Colours need 3 by 3, and alpha 5 by 5."""

    across: int
    down: int
    has_alpha: bool

    @property
    def channels(self) -> tuple[tuple[int, int], ...]:
        return ((self.across, self.down), (3, 3), (3, 3), *([(5, 5)] if self.has_alpha else []))


class _Channel:
    """The lowest frequencies of a channel: its mean, and the others as shares of the largest of them."""

    def __init__(self, frequencies: Matrix, across: int, down: int) -> None:
        self.mean = frequencies[0][0]
        # Rounded, because the zeros of plain pictures are sums of many numbers, and differ by 1e-17.
        self._others = [round(frequencies[y][x], 12) for x, y in _places(across, down)]
        self.scale = max(map(abs, self._others))

    def nibbles(self) -> list[int]:
        """Return the frequencies as numbers from 0 to 15."""
        if not self.scale:
            return [0] * len(self._others)
        share = 7.5 / self.scale
        return [_rounded(7.5 + share * value) for value in self._others]


@cache
def _places(across: int, down: int) -> list[tuple[int, int]]:
    """Return the frequencies of a channel other than its mean: a triangle of `across` by `down`."""
    return [(x, y) for y in range(down) for x in range(across) if (x or y) and x * down < across * (down - y)]


def _channels(image: Image.Image, sizes: _Sizes) -> list[_Channel]:
    waves, mixing = _factors(image.width, image.height, sizes)
    pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, -1)
    rows = (waves @ (pixels @ mixing)).tolist()
    parts: list[Matrix] = []
    at = 0
    for across, _ in sizes.channels:
        parts.append([row[at : at + across] for row in rows])
        at += across
    if sizes.has_alpha:
        parts = [*(_on_mean(part, parts[-1]) for part in parts[:-1]), parts[-1]]
    return [_Channel(part, *size) for part, size in zip(parts, sizes.channels, strict=True)]


def _on_mean(channel: Matrix, alpha: Matrix) -> list[list[float]]:
    """Return a premultiplied channel on a ground of its mean colour."""
    mean = channel[0][0] / alpha[0][0] if alpha[0][0] else 0.0
    result = [[c - mean * a for c, a in zip(*rows, strict=False)] for rows in zip(channel, alpha, strict=True)]
    result[0][0] += mean
    return result


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)


@cache
def _waves(length: int, count: int) -> Matrix:
    """Return samples of the first cosines, so that a sum with them is a mean."""
    return [[math.cos(math.pi / length * n * (at + 0.5)) / length for at in range(length)] for n in range(count)]


@cache
def _mixing(width: int, sizes: _Sizes) -> Matrix:
    """Return a row for each frequency of each channel: its factors for the bytes in a row of pixels."""
    bands = 4 if sizes.has_alpha else 3
    return [
        [sample * share / 255 for sample in wave for share in _SHARES[channel][:bands]]
        for channel, (across, _) in enumerate(sizes.channels)
        for wave in _waves(width, across)
    ]


@cache
def _factors(width: int, height: int, sizes: _Sizes) -> tuple[Any, Any]:
    """Return the matrices for the columns and the rows of a picture."""
    down = max(size[1] for size in sizes.channels)
    return np.array(_waves(height, down)), np.array(_mixing(width, sizes)).T.copy()
