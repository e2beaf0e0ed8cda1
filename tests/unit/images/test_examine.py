"""The header of a source, as `inspect` shows it."""

from __future__ import annotations

import pytest

from pipeline.images.details.examine import examine
from tests.support.pictures import corners, encoded, exif, linear_profile


@pytest.mark.parametrize(
    ("source", "colours", "profile"),
    [
        (encoded(corners().convert("CMYK"), "JPEG"), "CMYK", None),
        (encoded(corners().convert("L"), "PNG"), "grey", None),
        (encoded(corners().quantize(4), "PNG"), "palette", None),
        (encoded(corners().convert("RGBA"), "PNG"), "RGB with alpha", None),
        (encoded(corners().convert("I;16"), "PNG"), "grey of 16 bits", None),
        (encoded(corners().convert("F"), "TIFF"), "grey of 32 bits", None),
        (encoded(corners(), "JPEG", icc_profile=linear_profile()), "RGB", "sRGB built-in"),
        (encoded(corners(), "JPEG", icc_profile=b"broken"), "RGB", "unreadable"),
    ],
    ids=["cmyk", "grey", "palette", "alpha", "16-bits", "32-bits", "profile", "broken-profile"],
)
def test_the_colour_space_is_that_of_the_source(source, colours, profile):
    found = examine(source, 1_000_000)
    assert (found["colours"], found["profile"]) == (colours, profile)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_orientation_is_that_of_exif(name):
    assert examine(encoded(corners(60, 40), name, exif=exif(6)), 1_000_000)["orientation"] == 6
    assert examine(encoded(corners(60, 40), name), 1_000_000)["orientation"] == 1
