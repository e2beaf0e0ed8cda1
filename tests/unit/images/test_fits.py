"""Fits: exact sizes, and what a rendition shows of its source."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from PIL import Image

from pipeline.images.render import render
from tests.support.pictures import (
    BLACK,
    BLUE,
    GREEN,
    LIMITS,
    RED,
    WHITE,
    YELLOW,
    assert_quarters,
    corners,
    encoded,
    exif,
    is_near,
    quarters,
    recipe,
    rendered,
)


@pytest.mark.parametrize("fit", ["cover", "contain", "fill", "blur"])
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (200, 50), (50, 200), (799, 601), (1, 10_000), (10_000, 1)])
@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_every_rendition_has_exactly_its_size(name: str, size: tuple[int, int], fit: str) -> None:
    # Given a source of any shape
    data = encoded(Image.new("RGB", size, RED), name)
    wanted = recipe("50x50", "250X250", "400x400", "30x90", "7x1", "1x300", fit=fit)
    # When it is rendered
    result = render(data, wanted, **LIMITS)
    # Then all renditions exist, in order, under their names, each with its size
    assert list(result) == ["50x50", "250X250", "400x400", "30x90", "7x1", "1x300"]
    for rendition in wanted.renditions:
        image = Image.open(io.BytesIO(result[rendition.name]))
        assert image.size == (rendition.width, rendition.height)
        if fit != "contain":
            assert is_near(image.convert("RGB").getpixel((0, 0)), RED)


def test_a_thin_source_in_a_wide_rendition_keeps_its_centre() -> None:
    # Given a picture of one column with a green middle; the visible part is a ten-thousandth of a pixel high
    source = Image.new("RGB", (1, 10_001), RED)
    source.paste(GREEN, (0, 4_990, 1, 5_011))
    # Then it is enlarged nevertheless
    image = rendered(encoded(source, "PNG"), "16383x1")
    assert image.size == (16_383, 1)
    assert image.getpixel((8_000, 0)) == GREEN


def test_cover_crops_around_the_centre() -> None:
    # Given red and blue margins around a green square
    source = Image.new("RGB", (300, 100), GREEN)
    source.paste(RED, (0, 0, 100, 100))
    source.paste(BLUE, (200, 0, 300, 100))
    # Then nothing of the margins remains, except the filter's blend into the last columns
    image = rendered(encoded(source, "PNG"), "40x40", "cover")
    assert image.crop((4, 0, 36, 40)).getcolors() == [(32 * 40, GREEN)]
    assert all(image.getpixel((x, 20))[1] > 200 for x in (0, 39))


@pytest.mark.parametrize(("name", "expected"), [("PNG", (*WHITE, 0)), ("WEBP", (*WHITE, 0)), ("JPEG", (*WHITE, 255))])
def test_contain_pads_with_transparency_or_white(name: str, expected: tuple[int, ...]) -> None:
    image = rendered(encoded(Image.new("RGB", (200, 100), RED), name, quality=95), "40x40", "contain").convert("RGBA")
    alpha_only = slice(3, 4) if expected[3] == 0 else slice(0, 4)
    for corner in ((0, 0), (39, 0), (0, 39), (39, 39), (20, 2), (20, 37)):
        assert is_near(image.getpixel(corner)[alpha_only], expected[alpha_only])
    for inside in ((0, 12), (39, 27), (20, 20)):
        assert is_near(image.getpixel(inside), (*RED, 255), 12)


def test_contain_pads_a_gif_with_its_transparent_colour() -> None:
    image = rendered(encoded(Image.new("RGB", (200, 100), RED), "GIF"), "40x40", "contain").convert("RGBA")
    assert [image.getpixel(place)[3] for place in ((0, 0), (39, 39), (20, 20))] == [0, 0, 255]
    assert image.getpixel((20, 20))[:3] == RED


def test_fill_stretches() -> None:
    image = rendered(encoded(corners(300, 100), "PNG"), "40x80", "fill")
    assert image.size == (40, 80)
    assert_quarters(image, RED, GREEN, BLUE, YELLOW)
    assert image.getpixel((0, 0)) == RED
    assert image.getpixel((39, 79)) == YELLOW


SHAPES = {"square": (300, 300), "wide": (480, 270), "tall": (270, 480), "column": (1, 10_000), "pixel": (1, 1)}


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP"])
@pytest.mark.parametrize("size", SHAPES.values(), ids=SHAPES)
def test_blur_shows_the_whole_picture_over_its_own_colours(size: tuple[int, int], name: str) -> None:
    # Given a picture that is red above and blue below
    width, height = size
    source = Image.new("RGB", size, RED)
    source.paste(BLUE, (0, height // 2, width, height))
    # When it is fitted into a square
    made = rendered(encoded(source, name), "120x120", "blur").convert("RGB")
    # Then it is there from its first row to its last
    scale = max(size) / 120
    wide, high = (max(1, round(side / scale)) for side in size)
    top = (120 - high) // 2
    seen = [made.getpixel((60 - wide % 2, top + round(high * share))) for share in (0.02, 0.45, 0.55, 0.97)]
    colours = [BLUE] * 4 if size == (1, 1) else [RED, RED, BLUE, BLUE]
    tolerance = 24 if wide > 1 or name in ("PNG", "GIF") else 180  # lossy formats mix a column with its neighbours
    assert all(is_near(one, other, tolerance) for one, other in zip(seen, colours, strict=True)), seen
    # And all around it are mixtures of its colours, never white or transparent
    assert made.getchannel("G").getextrema()[1] < 40


@pytest.mark.parametrize("turn", [None, Image.Transpose.ROTATE_90])
def test_the_surroundings_continue_the_picture(turn: Image.Transpose | None) -> None:
    # Given a picture of four quarters, wide or tall
    source = corners(400, 200) if turn is None else corners(400, 200).transpose(turn)
    # When it is fitted into a square
    made = rendered(encoded(source, "PNG"), "120x120", "blur")
    # Then the corners of the square have the colours of the quarters next to them
    found = [made.getpixel((x, y)) for y in (2, 117) for x in (2, 117)]
    assert all(is_near(one, other, 24) for one, other in zip(found, quarters(source), strict=True)), found


def test_the_surroundings_have_no_edges() -> None:
    # Given a wide picture of black and white stripes
    source = Image.new("RGB", (640, 320), "white")
    for x in range(0, 640, 20):
        source.paste(BLACK, (x, 0, x + 10, 320))
    # Then no pixel above it differs much from the next one
    above = rendered(encoded(source, "PNG"), "320x320", "blur").crop((0, 0, 320, 80)).convert("L").tobytes()
    assert max(abs(a - b) for a, b in pairwise(above[:320])) < 8


@pytest.mark.parametrize("name", ["PNG", "WEBP", "GIF", "TIFF"])
def test_blur_pads_a_picture_with_alpha_as_contain_does(name: str) -> None:
    source = corners(80, 40).convert("RGBA")
    source.paste((0, 0, 0, 0), (20, 10, 60, 30))
    data = encoded(source, name)
    wanted = ("40x40", "40x40.jpeg", "40x40.avif")
    assert list(render(data, recipe(*wanted, fit="blur"), **LIMITS).values()) == list(
        render(data, recipe(*wanted, fit="contain"), **LIMITS).values()
    )


def test_each_rendition_has_its_own_fit() -> None:
    # Given a wide picture with a red and a blue margin
    source = Image.new("RGB", (300, 100), GREEN)
    source.paste(RED, (0, 0, 100, 100))
    source.paste(BLUE, (200, 0, 300, 100))
    # When its renditions have four fits
    names = ("60x60", "61x61@contain", "62x62@fill", "63x63@blur")
    made = render(encoded(source, "JPEG", quality=95), recipe(*names), **LIMITS)
    # Then their names are the sizes alone, and each is as if it were made alone
    assert list(made) == ["60x60", "61x61", "62x62", "63x63"]
    cropped, padded, stretched, blurred = (Image.open(io.BytesIO(data)).convert("RGB") for data in made.values())
    assert is_near(cropped.getpixel((30, 2)), GREEN, 12)
    assert is_near(padded.getpixel((30, 2)), WHITE, 12)
    assert is_near(stretched.getpixel((10, 2)), RED, 12)
    assert is_near(blurred.getpixel((31, 2)), GREEN, 40)
    assert is_near(blurred.getpixel((10, 31)), RED, 12)


@pytest.mark.parametrize("orientation", [1, 6])
def test_blur_fits_the_upright_picture(orientation: int) -> None:
    stored = corners(200, 100)
    made = rendered(encoded(stored, "JPEG", exif=exif(orientation), quality=95), "80x80", "blur")
    upright = stored if orientation == 1 else stored.transpose(Image.Transpose.ROTATE_270)
    wide, high = (80, 40) if orientation == 1 else (40, 80)
    shown = made.crop(((80 - wide) // 2, (80 - high) // 2, (80 + wide) // 2, (80 + high) // 2))
    assert_quarters(shown, *quarters(upright), tolerance=16)
