"""TIFFs of every layout are rendered right, or refused as unsupported: never wrong, and never called broken."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import pytest
from PIL import Image, TiffImagePlugin

from pipeline.errors import PermanentError
from pipeline.images.containers.model import File
from pipeline.images.containers.tiff import _has_alpha, read_tiff
from pipeline.images.identify import identify
from pipeline.images.render import render
from tests.support import tiffs
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
    is_near,
    quarters,
    recipe,
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


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("is_big", [False, True])
def test_a_tiffs_tags_may_hold_numbers_up_to_the_limit(order: str, is_big: bool) -> None:
    def tiff(values: int, kind: int = 3, before: int = 0) -> bytes:
        entries = [(256, 3, 1), (257, 3, 1)] + [(254, 3, 1)] * before + [(273, kind, values)]
        sign = {"<": b"II", ">": b"MM"}[order]
        if is_big:
            head = sign + struct.pack(f"{order}HHHQQ", 43, 8, 0, 16, len(entries))
            return head + b"".join(struct.pack(f"{order}HHQH6x", *entry, 1) for entry in entries)
        head = sign + struct.pack(f"{order}HIH", 42, 8, len(entries))
        return head + b"".join(struct.pack(f"{order}HHIH2x", *entry, 1) for entry in entries)

    read_tiff(File(tiff(262_144)))
    read_tiff(File(tiff(262_145, kind=2)))
    for before in (0, 3):
        with pytest.raises(ValueError, match="tag 273 has 262145 numbers"):
            read_tiff(File(tiff(262_145, before=before)))


@pytest.mark.parametrize("key", TiffImagePlugin.OPEN_INFO, ids=str)
def test_the_alpha_of_a_tiff_is_that_of_pillow(key: tuple[object, ...]) -> None:
    mode, _ = TiffImagePlugin.OPEN_INFO[key]
    _, photometric, _, _, bits, extra = key
    tags = {262: (photometric,), 277: (len(bits),), **({338: extra} if extra else {})}
    assert _has_alpha(tags) == (mode in ("LA", "La", "PA", "RGBA"))


def test_a_tiff_with_millions_of_numbers_in_a_tag_is_refused() -> None:
    # Given a good image with an extra tag, which would become a million objects before any check
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[65_000] = 3
    tags[65_000] = (1,) * 300_000
    with pytest.raises(PermanentError) as caught:
        identify(encoded(corners(), "TIFF", tiffinfo=tags), max_pixels=4096)
    assert caught.value.code == "broken_image"


@pytest.mark.parametrize(("compression", "is_accepted"), [("tiff_lzw", True), ("jpeg", True), ("lzma", False)])
def test_a_tiff_with_a_rare_compression_is_refused(compression: str, is_accepted: bool) -> None:
    data = encoded(corners(), "TIFF", compression=compression)
    if is_accepted:
        assert render(data, recipe("5x5"), **LIMITS)
        return
    with pytest.raises(PermanentError, match="compression") as caught:
        identify(data, max_pixels=4096)
    assert caught.value.code == "unsupported_format"


@pytest.mark.parametrize("magic", [b"II\0*", b"MM*\0"])
def test_a_tiff_that_only_pillow_recognizes_is_not_opened(magic: bytes) -> None:
    # Given a TIFF header that Pillow accepts and no other program writes
    data = magic + encoded(corners(), "TIFF")[4:]
    for function in (lambda: identify(data, max_pixels=4096), lambda: render(data, recipe("5x5"), **LIMITS)):
        with pytest.raises(PermanentError) as caught:
            function()
        assert caught.value.code == "not_an_image"
