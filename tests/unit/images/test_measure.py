"""Facts of a source: its size, mean colour, placeholder and warnings (contract, section 4)."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from PIL import Image

from pipeline.images.details.thumbhash import hashed
from pipeline.images.render import render
from tests.support.measured import facts_of
from tests.support.pictures import LIMITS, corners, encoded, exif, is_near, recipe


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO"])
def test_facts_name_format_size_and_colour(name: str) -> None:
    found = facts_of(
        encoded(Image.new("RGB", (64, 48), (10, 120, 200)), name, **({"sizes": [(64, 48)]} if name == "ICO" else {}))
    )
    assert (found["width"], found["height"], found["format"]) == (64, 48, name.lower())
    assert is_near(tuple(bytes.fromhex(found["color"][1:])), (10, 120, 200))
    assert set(found["warnings"]) >= {"not_square", "below_1400"}


@pytest.mark.parametrize("fit", ["cover", "contain", "fill", "blur"])
@pytest.mark.parametrize(("name", "orientation"), [("JPEG", 6), ("JPEG", 1), ("WEBP", 8), ("PNG", 3), ("TIFF", 6)])
def test_facts_are_of_the_whole_picture_upright(name: str, orientation: int, fit: str) -> None:
    # Given a picture twice as wide as high, turned by its metadata, whose renditions may be cropped
    stored = corners(400, 200)
    source = encoded(stored, name, exif=exif(orientation))
    upright = (200, 400) if orientation in (6, 8) else (400, 200)
    # When its facts are measured
    found = facts_of(source, "40x40", "80x80", fit=fit)
    # Then they are those of the upright picture, whole
    turned = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}
    whole = stored if turned[orientation] is None else stored.transpose(turned[orientation])
    assert (found["width"], found["height"]) == upright
    expected = hashed(whole.resize((16, 32) if upright == (200, 400) else (32, 16), Image.Resampling.BOX))
    hash_of = base64.b64decode(found["thumbhash"])
    assert len(hash_of) == len(expected.thumbhash)
    assert hash_of[4] >> 7 == expected.thumbhash[4] >> 7  # whether it is wide
    assert (hash_of[0] & 63) - (expected.thumbhash[0] & 63) in {-1, 0, 1}  # lightness
    assert is_near(tuple(bytes.fromhex(found["color"][1:])), expected.colour, 6)


@pytest.mark.parametrize(
    ("side", "expected"), [(1399, {"below_1400"}), (1400, set()), (3000, set()), (3001, {"above_3000"})]
)
def test_sizes_are_compared_with_apples_rules(side: int, expected: set[str]) -> None:
    assert set(facts_of(encoded(Image.new("RGB", (side, side)), "PNG"))["warnings"]) == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: encoded(Image.new("RGB", (1400, 1400)), "JPEG"), set()),
        (lambda: encoded(Image.new("CMYK", (1400, 1400)), "JPEG"), {"not_rgb"}),
        (lambda: encoded(Image.new("L", (1400, 1400)), "JPEG"), {"not_rgb"}),
        (lambda: encoded(Image.new("I;16", (1400, 1400)), "PNG"), {"not_rgb"}),
        (lambda: encoded(Image.new("LA", (1400, 1400)), "PNG"), {"not_rgb", "has_alpha"}),
        (lambda: encoded(Image.new("RGBA", (1400, 1400), "red"), "PNG"), {"has_alpha"}),
        (lambda: encoded(Image.new("P", (1400, 1400)), "PNG", transparency=0), {"has_alpha"}),
        (lambda: encoded(Image.new("RGBA", (1400, 1400), (9, 9, 9, 9)), "WEBP"), {"has_alpha"}),
        (lambda: encoded(Image.new("RGB", (1400, 1400), "red"), "WEBP"), set()),
    ],
)
def test_alpha_and_colours_other_than_rgb_are_named(make: Callable[[], bytes], expected: set[str]) -> None:
    assert set(facts_of(make())["warnings"]) == expected


def test_measuring_changes_no_byte_of_the_renditions() -> None:
    for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF"):
        source = encoded(corners(100, 80), name)
        assert render(source, recipe("50x50", "20x20"), **LIMITS, facts={}) == render(
            source, recipe("50x50", "20x20"), **LIMITS
        )
