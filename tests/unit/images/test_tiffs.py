"""TIFFs of every layout are rendered right, or refused as unsupported: never wrong, and never called broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import pytest
from PIL import Image

from pipeline.errors import PermanentError
from pipeline.images.identify import identify
from tests.support import tiffs
from tests.support.pictures import (
    BLACK,
    BLUE,
    GREEN,
    RED,
    WHITE,
    YELLOW,
    assert_quarters,
    encoded,
    is_near,
    quarters,
    rendered,
)
from tests.support.tiffs import (
    BLACK_IS_ZERO,
    CMYK,
    DEFLATE,
    FLOAT,
    LZW,
    PALETTE,
    RGB,
    SIGNED,
    UNSIGNED,
    WHITE_IS_ZERO,
    YCBCR,
)

SIDE = 20
COLOURS = (RED, GREEN, BLUE, YELLOW)
GREYS = (10, 80, 160, 250)
ALPHA = 2  # the meaning of an extra sample

Pixel = tuple[float, ...]


def in_quarters(pixels: Sequence[Pixel], side: int = SIDE) -> list[list[Pixel]]:
    return [[pixels[y * 2 // side * 2 + x * 2 // side] for x in range(side)] for y in range(side)]


def ycbcr(colour: tuple[int, ...]) -> Pixel:
    return Image.new("RGB", (1, 1), colour).convert("YCbCr").getpixel((0, 0))


class Kind(NamedTuple):
    photometric: int
    pixels: Sequence[Pixel]  #: of the quarters, in 8 bits
    expected: Sequence[Pixel]
    extra: Sequence[int] = ()


KINDS = {
    "black is zero": Kind(BLACK_IS_ZERO, [(grey,) for grey in GREYS], [(grey,) * 3 for grey in GREYS]),
    "white is zero": Kind(WHITE_IS_ZERO, [(255 - grey,) for grey in GREYS], [(grey,) * 3 for grey in GREYS]),
    "grey and alpha": Kind(BLACK_IS_ZERO, [(grey, 255) for grey in GREYS], [(grey,) * 3 for grey in GREYS], (ALPHA,)),
    "RGB": Kind(RGB, COLOURS, COLOURS),
    "RGB and alpha": Kind(RGB, [(*colour, 255) for colour in COLOURS], COLOURS, (ALPHA,)),
    "CMYK": Kind(CMYK, [(0, 0, 0, ink) for ink in (0, 255, 255, 0)], (WHITE, BLACK, BLACK, WHITE)),
}
#: Layouts that are supported: bits, sample format, and whether samples may have planes of their own.
SUPPORTED = {
    "black is zero": {(1, UNSIGNED), (2, UNSIGNED), (4, UNSIGNED), (8, UNSIGNED), (16, UNSIGNED), (32, FLOAT)},
    "white is zero": {(1, UNSIGNED), (2, UNSIGNED), (4, UNSIGNED), (8, UNSIGNED), (32, FLOAT)},
    "grey and alpha": {(8, UNSIGNED)},
    "RGB": {(8, UNSIGNED), (16, UNSIGNED)},
    "RGB and alpha": {(8, UNSIGNED), (16, UNSIGNED)},
    "CMYK": {(8, UNSIGNED), (16, UNSIGNED)},
}
SAMPLES = [(bits, UNSIGNED) for bits in (1, 2, 4, 8, 12, 16, 32, 64)]
SAMPLES += [(bits, SIGNED) for bits in (8, 16, 32, 64)] + [(bits, FLOAT) for bits in (16, 32, 64)]


def scaled(value: float, bits: int, sample_format: int) -> float:
    if sample_format == FLOAT:
        return value / 255
    white = 2 ** (bits - 1) - 1 if sample_format == SIGNED else 2**bits - 1
    return (int(value) * white + 127) // 255


def layouts(name: str, bits: int, sample_format: int) -> Iterator[bytes]:
    kind = KINDS[name]
    pixels = [tuple(scaled(sample, bits, sample_format) for sample in pixel) for pixel in kind.pixels]
    planes = (False, True) if len(pixels[0]) > 1 and name != "grey and alpha" else (False,)
    for order, is_separate, compression, tile in product("<>", planes, (tiffs.NONE, DEFLATE), (0, 16)):
        yield tiffs.tiff(
            in_quarters(pixels), kind.photometric, order=order, bits=bits, sample_format=sample_format,
            is_separate=is_separate, compression=compression, tile=tile, extra=kind.extra,
        )  # fmt: skip


@pytest.mark.parametrize(("name", "bits", "sample_format"), [(name, *each) for name in KINDS for each in SAMPLES])
def test_every_layout_of_samples_is_rendered_right_or_refused_as_unsupported(
    name: str, bits: int, sample_format: int
) -> None:
    tolerance = max(6, 255 // (2**bits - 1) // 2 + 1)  # few bits have few levels
    for source in layouts(name, bits, sample_format):
        found = outcome(source)
        if found == "unsupported_format":
            assert (bits, sample_format) not in SUPPORTED[name]
        else:
            assert all(is_near(one, other, tolerance) for one, other in zip(found, KINDS[name].expected, strict=True))


def outcome(source: bytes) -> str | list[tuple[int, ...]]:
    """Return the colours of the quarters, or the code of the error."""
    try:
        return quarters(rendered(source))
    except PermanentError as error:
        return error.code


def raised(render: Callable[[], Any]) -> str:
    with pytest.raises(PermanentError) as caught:
        render()
    return caught.value.code


@pytest.mark.parametrize("compression", [tiffs.NONE, LZW])
@pytest.mark.parametrize("unit", [1, 257], ids=["8 bits", "16 bits"])
def test_a_palette_has_numbers_of_16_bits_or_as_old_writers_made_it_of_8(unit: int, compression: int) -> None:
    # Given a palette of four colours
    palette = [number for channel in range(3) for number in (*(each[channel] * unit for each in COLOURS), *[0] * 252)]
    source = tiffs.tiff(
        in_quarters([(index,) for index in range(4)]), PALETTE, colour_map=palette, compression=compression
    )
    # Then no colour is black.
    assert_quarters(rendered(source), *COLOURS)


@pytest.mark.parametrize("compression", [tiffs.NONE, LZW])
def test_halved_colours_are_decoded(compression: int) -> None:
    # Given units of 2 x 2 pixels: four of luma and two of colour
    units = in_quarters([(luma, luma, luma, luma, *rest) for luma, *rest in map(ycbcr, COLOURS)], SIDE // 2)
    shape = {256: [SIDE], 257: [SIDE], 258: [8] * 3, 277: [3], 278: [SIDE], 339: [1] * 3, 530: [2, 2]}
    source = tiffs.tiff(units, YCBCR, compression=compression, tags=shape)
    # Then the picture is right, with compression and without.
    assert_quarters(rendered(source), *COLOURS)


@pytest.mark.parametrize(
    "source",
    [
        tiffs.tiff(in_quarters([ycbcr(each) for each in COLOURS]), YCBCR, is_separate=True, tags={530: [1, 1]}),
        tiffs.tiff(in_quarters([(grey, 255) for grey in GREYS]), BLACK_IS_ZERO, is_separate=True, extra=[ALPHA]),
        tiffs.tiff(in_quarters([(grey,) for grey in GREYS]), BLACK_IS_ZERO, bits=16, sample_format=SIGNED),
    ],
    ids=["YCbCr in planes", "grey and alpha in planes", "signed"],
)
def test_samples_that_would_be_decoded_to_wrong_values_are_refused_by_fetch(source: bytes) -> None:
    assert raised(lambda: identify(source, max_pixels=1_000_000)) == "unsupported_format"


@pytest.mark.parametrize("unit", [1, 257, 2**23], ids=["8 bits", "16 bits", "31 bits"])
def test_white_of_32_bits_is_the_usual_one_that_fits(unit: int) -> None:
    pixels = in_quarters([(grey * unit,) for grey in GREYS])
    source = tiffs.tiff(pixels, BLACK_IS_ZERO, bits=32, sample_format=SIGNED)
    assert_quarters(rendered(source), *[(grey,) * 3 for grey in GREYS], tolerance=2)


@pytest.mark.parametrize(
    "image", [Image.new("I", (8, 8), -1), *(Image.new("F", (8, 8), float(word)) for word in ("nan", "inf"))]
)
def test_numbers_that_have_no_place_between_black_and_white_are_refused(image: Image.Image) -> None:
    assert raised(lambda: rendered(encoded(image, "TIFF"))) == "unsupported_format"
