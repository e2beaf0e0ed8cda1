"""Renditions whose names end in a format stand beside the others, and change nothing of them (contract, section 2)."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from pipeline.images import sandbox
from pipeline.images.encoding import format_by_extension
from pipeline.images.render import render
from pipeline.recipe import NAMED_FORMATS
from tests.support.pictures import (
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
    recipe,
)

NAMED = tuple(f"40x40{extension}" for extension in NAMED_FORMATS)

#: Sources of every accepted format.
SOURCES = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO")


def textured(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Make a picture in which every change of scale or kernel shows."""
    noise = Image.effect_noise((width, height), 90).convert("RGB")
    return Image.blend(corners(width, height), noise, 0.4).convert(mode)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("name", SOURCES)
def test_a_named_format_is_made_of_every_source(name: str) -> None:
    # Given a source of this format, turned by its metadata where it has any
    turned = {"exif": exif(6)} if name in {"JPEG", "WEBP"} else {}
    source = encoded(corners().rotate(90) if turned else corners(), name, **turned)
    # When it is rendered
    made = render(source, recipe("40x40", *NAMED), **LIMITS)
    # Then each rendition has the format and the size of its name, the picture, and no metadata
    assert list(made) == ["40x40", *NAMED]
    for rendition, extension in zip(NAMED, NAMED_FORMATS, strict=True):
        image = opened(made[rendition])
        assert image.format == format_by_extension(extension).name
        assert image.size == (40, 40)
        assert_quarters(image, RED, GREEN, BLUE, YELLOW, tolerance=40)
        assert not image.info.get("exif")
        assert not image.info.get("icc_profile")


def test_alpha_is_kept_where_the_format_has_it_and_white_elsewhere() -> None:
    source = corners().convert("RGBA")
    source.paste((0, 0, 0, 0), (16, 16, 48, 48))
    made = render(encoded(source, "PNG"), recipe("40x40", *NAMED), **LIMITS)
    for extension in (".webp", ".avif", ".png"):
        assert opened(made[f"40x40{extension}"]).convert("RGBA").getpixel((20, 20))[3] == 0
    assert is_near(opened(made["40x40.jpeg"]).convert("RGB").getpixel((20, 20)), WHITE)


@pytest.mark.parametrize("fit", ["cover", "contain", "fill", "blur"])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "AVIF"])
def test_the_others_stay_byte_for_byte_as_without(name: str, fit: str) -> None:
    # Given a source that is decoded at a smaller scale if its renditions allow it
    source = encoded(textured(640, 480), name)
    plain = ("20x20", "60x45", "21X14")
    # When renditions with formats are added: smaller, equal, and so large that they need another scale
    named = ("20x20.webp", "60x45.avif", "60x45.png", "500x400.webp", "500x400.jpeg", "30x30.avif")
    without = render(source, recipe(*plain, fit=fit), **LIMITS)
    mixed = render(source, recipe(*named[:3], *plain, *named[3:], fit=fit), **LIMITS)
    # Then the others are as they were
    assert {each: mixed[each] for each in plain} == without
    assert {each: opened(mixed[each]).size for each in named} == {
        each: tuple(map(int, each.partition(".")[0].split("x"))) for each in named
    }


@pytest.mark.parametrize(("name", "extension"), [("JPEG", ".jpeg"), ("PNG", ".png"), ("WEBP", ".webp")])
def test_the_sources_own_format_gives_the_same_object_with_or_without_its_name(name: str, extension: str) -> None:
    # Both names have the same key, so that two different pictures would overwrite each other
    source = encoded(textured(300, 300), name)
    made = render(source, recipe("50x50", f"50x50{extension}", f"120x120{extension}"), **LIMITS)
    assert made["50x50"] == made[f"50x50{extension}"]


def test_a_large_named_rendition_is_not_enlarged_from_a_small_scale() -> None:
    # Given a JPEG whose other renditions need an eighth of its pixels
    source = encoded(textured(800, 800), "JPEG", quality=95)
    # When a named rendition needs more
    beside, alone = (render(source, recipe(*names), **LIMITS) for names in (("20x20", "400x400.png"), ("400x400.png",)))
    # Then it is as sharp as alone
    assert beside["400x400.png"] == alone["400x400.png"]


def test_every_format_is_encoded_in_the_sandbox() -> None:
    # Given the sandbox, which allows neither threads nor files
    source = encoded(textured(300, 300, "RGBA"), "PNG")
    names = ("100x100", *(f"100x100{extension}" for extension in NAMED_FORMATS))
    # When it renders all formats, then the result is that of the encoders without it
    limits = {"max_pixels": 1_000_000, "max_decoded_pixels": 1_000_000}
    assert sandbox.render(source, recipe(*names), **limits) == render(source, recipe(*names), **limits)
