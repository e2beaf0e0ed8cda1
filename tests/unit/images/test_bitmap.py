"""BMP and ICO: the headers of bitmaps, and the picture of an icon that is shown."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from pipeline.errors import PermanentError
from pipeline.images.identify import identify
from pipeline.images.opening import open_image
from pipeline.images.render import render
from tests.support.pictures import (
    BLUE,
    GREEN,
    LIMITS,
    RED,
    YELLOW,
    assert_quarters,
    corners,
    encoded,
    icon,
    recipe,
    rendered,
)


@pytest.mark.parametrize(
    ("bits", "compression", "masks"),
    [(2, 0, ()), (16, 3, (0xF00, 0xF0, 0xF)), (32, 6, (0xFF, 0xFF00, 0xFF0000)), (0, 4, ()), (0, 5, ())],
    ids=["2 bits", "12 bits in 16", "masks of an old variant", "JPEG inside", "PNG inside"],
)
def test_a_rare_kind_of_bmp_is_unsupported_and_not_broken(bits: int, compression: int, masks: tuple[int, ...]) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, bits, compression, 0, 0, 0, 0, 0)
    source = b"BM" + struct.pack("<IHHI", 512, 0, 0, 256) + header + struct.pack(f"<{len(masks)}I", *masks)
    with pytest.raises(PermanentError) as caught:
        render(source.ljust(512, b"\0"), recipe("50x50"), **LIMITS)
    assert caught.value.code == "unsupported_format"
    assert "Unsupported BMP" in caught.value.message


def test_a_bmp_with_more_colours_than_its_pixels_can_name_is_rendered() -> None:
    # Given a palette of 300 colours, of which the first is red, and eight rows of the first colour
    header = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 0, 0, 0, 0, 300, 0)
    palette = bytes((0, 0, 255, 0)) + bytes(4 * 299)
    source = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(palette)) + header + palette + bytes(64)
    # Then it is red.
    assert_quarters(rendered(source), *[RED] * 4)


def test_an_icon_of_a_huge_bitmap_is_refused() -> None:
    bitmap = struct.pack("<IiiHHIIiiII", 40, 9000, 18000, 1, 8, 1, 0, 0, 0, 0, 0) + bytes(100)
    with pytest.raises(PermanentError) as caught:
        identify(icon(bitmap), max_pixels=178_000_000)
    assert caught.value.code == "broken_image"
    assert "9000" in caught.value.message


def test_the_largest_and_deepest_picture_of_an_icon_is_used() -> None:
    # Given a small one, a large one of 16 colours, and a large one of all colours
    pictures = [(16, 32, BLUE), (64, 4, RED), (64, 32, GREEN)]
    files = [encoded(Image.new("RGB", (side, side), colour), "PNG") for side, _, colour in pictures]
    offset, entries = 6 + 16 * len(files), b""
    for (side, bits, _), data in zip(pictures, files, strict=True):
        entries += struct.pack("<4B2H2I", side, side, 0, 0, 1, bits, len(data), offset)
        offset += len(data)
    icon_of_three = struct.pack("<3H", 0, 1, 3) + entries + b"".join(files)
    assert_quarters(rendered(icon_of_three), *[GREEN] * 4)


PLENTY = 1_000_000


def refused(source: bytes) -> str:
    with pytest.raises(PermanentError) as caught:
        open_image(source, PLENTY)
    return caught.value.code


@pytest.mark.parametrize(
    ("width", "double_height", "is_accepted"),
    [(256, 512, True), (257, 512, False), (256, 514, False), (-257, 2, False), (2, -514, False)],
)
def test_an_icons_bitmap_is_no_larger_than_256(width: int, double_height: int, is_accepted: bool) -> None:
    bitmap = struct.pack("<IiiHHIIiiII", 40, width, double_height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(300_000)
    if is_accepted:
        assert open_image(icon(bitmap), PLENTY).image.size == (256, 256)
    else:
        assert refused(icon(bitmap)) == "broken_image"


def test_an_icon_with_a_bitmap_becomes_png() -> None:
    # Given an icon whose picture is a bitmap with a mask
    data = encoded(corners().convert("RGBA"), "ICO", bitmap_format="bmp", sizes=[(32, 32)])
    # Then it has alpha, so it becomes PNG
    assert identify(data, max_pixels=1024).output.name == "PNG"
    assert_quarters(rendered(data), RED, GREEN, BLUE, YELLOW)
