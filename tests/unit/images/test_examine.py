"""The header of a source, as `inspect` shows it."""

from __future__ import annotations

import pytest

from pipeline.images.details.examination import examination_from
from pipeline.images.details.examine import examine
from tests.support.pictures import corners, encoded, exif, linear_profile

GOOD = {"colours": "RGB", "profile": None, "orientation": 1, "cpu_seconds": 0.1}


@pytest.mark.parametrize(
    ("source", "colours", "profile"),
    [
        (encoded(corners().convert("CMYK"), "JPEG"), "CMYK", None),
        (encoded(corners().convert("L"), "PNG"), "grey", None),
        (encoded(corners().quantize(4), "PNG"), "palette", None),
        (encoded(corners().convert("RGBA"), "PNG"), "RGB with alpha", None),
        (encoded(corners().convert("I;16"), "PNG"), "I;16", None),
        (encoded(corners(), "JPEG", icc_profile=linear_profile()), "RGB", "sRGB built-in"),
        (encoded(corners(), "JPEG", icc_profile=b"broken"), "RGB", "unreadable"),
    ],
    ids=["cmyk", "grey", "palette", "alpha", "16-bits", "profile", "broken-profile"],
)
def test_the_colour_space_is_that_of_the_source(source, colours, profile):
    found = examine(source, 1_000_000)
    assert (found["colours"], found["profile"]) == (colours, profile)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_orientation_is_that_of_exif(name):
    assert examine(encoded(corners(60, 40), name, exif=exif(6)), 1_000_000)["orientation"] == 6
    assert examine(encoded(corners(60, 40), name), 1_000_000)["orientation"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        GOOD | {"orientation": 9},
        GOOD | {"cpu_seconds": float("nan")},
        GOOD | {"profile": "x" * 61},
    ],
)
def test_an_answer_of_another_form_is_refused(answer):
    with pytest.raises(ValueError):  # noqa: PT011 - pydantic's
        examination_from(answer, memory=None)


def test_names_cannot_change_the_terminal():
    assert examination_from(GOOD | {"profile": "a\x1b[2J"}, memory=None).profile == "a?[2J"
