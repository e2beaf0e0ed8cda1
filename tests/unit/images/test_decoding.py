"""Pixels in rare formats: little alpha, grey in 32 bits, frames of grey with alpha."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from pipeline.images import decoding
from tests.support.pictures import RED, WHITE, assert_quarters, corners, encoded, png_chunk, rendered


@pytest.mark.parametrize("alpha", [1, 127, 128, 254])
def test_alpha_is_kept_however_little_there_is(alpha: int) -> None:
    image = rendered(encoded(Image.new("RGBA", (64, 64), (*RED, alpha)), "PNG"))
    assert image.mode == "RGBA"
    assert image.getchannel("A").getextrema() == (alpha, alpha)


@pytest.mark.parametrize("top", [1, 254])
def test_integers_of_32_bits_are_never_a_fraction_of_white(top: int) -> None:
    # Given a TIFF of small integers
    image = rendered(encoded(Image.new("I", (64, 64), top), "TIFF"))
    # Then white is 255.
    assert_quarters(image, *[(top,) * 3] * 4, tolerance=1)


def test_a_float_up_to_one_is_a_fraction_of_white() -> None:
    image = Image.new("F", (64, 64), 0.5)
    assert_quarters(rendered(encoded(image, "TIFF")), *[(128,) * 3] * 4, tolerance=1)
    # Also if a filter overshot at an edge.
    image.paste(1.02, (0, 0, 32, 32))
    assert_quarters(rendered(encoded(image, "TIFF")), WHITE, *[(128,) * 3] * 3, tolerance=2)


def test_a_frame_of_grey_with_alpha_is_placed_on_its_canvas() -> None:
    # Given an APNG whose first frame is the lower right quarter: its left half light grey, its right half transparent
    pixels = encoded(Image.new("LA", (64, 64), (0, 255)), "PNG")
    default = pixels[pixels.index(b"IDAT") - 4 : -12]
    rows = (b"\0" + bytes((200, 255)) * 16 + bytes((200, 0)) * 16) * 32
    frame = png_chunk(b"fcTL", struct.pack(">5IHHBB", 0, 32, 32, 32, 32, 1, 10, 0, 0))
    frame += png_chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress(rows))
    head = png_chunk(b"acTL", struct.pack(">II", 1, 0))
    image = rendered(pixels[:33] + head + default + frame + png_chunk(b"IEND", b""), "64x64").convert("RGBA")
    # Then the grey is in its place, and everything else is transparent.
    assert image.getpixel((40, 48)) == (200, 200, 200, 255)
    assert [image.getpixel(place)[3] for place in ((10, 10), (48, 10), (10, 48), (60, 48))] == [0] * 4


def test_conversion_in_bands_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a palette of 64 rows that is converted five rows at a time
    data = encoded(corners().quantize(), "PNG")
    whole = rendered(data, "64x64").tobytes()
    for band in (1, 64 * 5, 64 * 64):
        monkeypatch.setattr(decoding, "_BAND", band)
        assert rendered(data, "64x64").tobytes() == whole
