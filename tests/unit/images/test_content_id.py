"""Content ids name pictures: other pictures need other ids."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from pipeline.images import content_id as ids
from pipeline.images.codecs import fast_paths
from pipeline.images.content_id import RECIPE_VERSION, content_id, recipe_id
from pipeline.images.encoding import AVIF, ENCODER_SETTINGS
from pipeline.images.render import render
from pipeline.recipe import NAMED_FORMATS
from tests.support.pictures import (
    LIMITS,
    encoded,
    recipe,
)

NAMES = ("50x50", "120x120", "300x300", "300x200.webp", "120x120.avif")

#: The bytes of the renditions of `cover`, by the format of the source and `recipe_id`. If the id is new, add a row. If
#: it is not and a number differs by more than 2 %, published keys would have other pictures: see RECIPE_VERSION.
RECIPE = "4db850416d3f26b4232055b1d9710946"
SIZES = {
    ("JPEG", RECIPE): (1416, 3371, 16307, 5764, 2892),
    ("PNG", RECIPE): (4069, 18931, 78126, 5974, 3021),
    ("GIF", RECIPE): (2958, 11172, 41167, 6676, 3205),
    ("WEBP", RECIPE): (696, 3080, 11842, 5720, 2872),
}


def cover() -> Image.Image:
    """Return a picture with gradients, edges and small details."""
    image = Image.linear_gradient("L").resize((400, 400))
    image = Image.merge("RGB", (image, image.rotate(90), image.rotate(180)))
    draw = ImageDraw.Draw(image)
    for place in range(0, 400, 20):
        draw.line((place, 0, 400 - place, 400), fill=(place // 2, 200, 255 - place // 2), width=3)
    draw.ellipse((120, 120, 280, 280), fill=(230, 40, 60))
    return image


@pytest.mark.skipif(
    fast_paths() != {"PNG": "kornia-rs", "resizing": "pic-scale"}, reason="Pillow alone writes other numbers of bytes"
)
@pytest.mark.parametrize("source", ["JPEG", "PNG", "GIF", "WEBP"])
def test_pictures_change_only_with_their_id(source: str) -> None:
    used = recipe(*NAMES)
    renditions = render(encoded(cover(), source), used, **LIMITS)
    sizes = tuple(len(data) for data in renditions.values())
    expected = SIZES.get((source, recipe_id(used)))
    assert expected, f"add ({source!r}, {recipe_id(used)!r}): {sizes}"
    assert sizes == pytest.approx(expected, rel=0.02)


def test_the_id_depends_on_the_source_and_on_all_of_the_recipe() -> None:
    recipes = [recipe("50x50"), recipe("50x50", fit="contain"), recipe("50x51"), recipe("50x50", "60x60")]
    ids = {content_id(source, each) for source in (b"a", b"b") for each in recipes}
    assert len(ids) == 8


def test_the_same_source_and_recipe_have_the_same_id() -> None:
    first = content_id(b"source", recipe("50x50", "250X250"))
    assert first == content_id(b"source", recipe("50x50", "250X250"))
    assert len(first) == 32
    assert set(first) <= set("0123456789abcdef")


def test_any_difference_makes_another_id(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given ids of sources and recipes that each differ in one respect
    base = recipe("50x50", "250X250")
    ids = [
        content_id(b"source", base),
        content_id(b"source\0", base),
        content_id(b"", base),
        content_id(b"source", recipe("50x50", "250x250")),
        content_id(b"source", recipe("50x50")),
        content_id(b"source", recipe("50x50", "250X250", fit="fill")),
        content_id(b"source", recipe("50x50", "250X250@fill")),
        content_id(b"source", recipe("50x50@blur", "250X250")),
        content_id(b"source", recipe("50x50", "250X250", fit="blur")),
        content_id(b"source", recipe("50x50", "250X250", formats="jpeg,png")),
    ]
    # And with a later version, or with another quality
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.images.content_id.RECIPE_VERSION", RECIPE_VERSION + 1)
        ids.append(content_id(b"source", base))
    changed = {**ENCODER_SETTINGS, "JPEG": {"quality": 1}}
    monkeypatch.setattr("pipeline.images.content_id.ENCODER_SETTINGS", changed)
    ids.append(content_id(b"source", base))
    # Then all of them differ
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("names", "fit", "known"),
    [
        (("50x50", "250X250", "800x800"), "cover", "528cccfa5ffd657c4690f35372234a05"),
        (("50x50",), "cover", "127e958ea25ef278769a2846d93ef85a"),
        (("50x50",), "fill", "b4c6c5e7fa198eaa8b2324264ac14894"),
        (("100X60", "1x1"), "contain", "15b8225b1a3c103b4a75c9f853f49045"),
    ],
)
def test_ids_without_named_formats_are_those_from_before_formats_existed(
    names: tuple[str, ...], fit: str, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert content_id(b"source", recipe(*names, fit=fit)) == known
    # And the quality of a format that no source keeps moves no URL
    monkeypatch.setattr(ids, "ENCODER_SETTINGS", ENCODER_SETTINGS | {AVIF.name: {"quality": 1}})
    assert content_id(b"source", recipe(*names, fit=fit)) == known


@pytest.mark.parametrize("name", ["AVIF", "WEBP", "JPEG", "PNG"])
def test_the_quality_of_a_named_format_is_part_of_the_id(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extension = {"AVIF": ".avif", "WEBP": ".webp", "JPEG": ".jpeg", "PNG": ".png"}[name]
    before = content_id(b"source", recipe("50x50", f"50x50{extension}"))
    monkeypatch.setattr(ids, "ENCODER_SETTINGS", ENCODER_SETTINGS | {name: {"quality": 1}})
    assert content_id(b"source", recipe("50x50", f"50x50{extension}")) != before


def test_each_name_is_part_of_the_id() -> None:
    names = ["50x50", *(f"50x50{extension}" for extension in NAMED_FORMATS)]
    assert len({content_id(b"source", recipe(name)) for name in names}) == len(names)


def test_another_spelling_of_the_same_recipe_has_the_same_id() -> None:
    assert content_id(b"source", recipe("50x50@cover", "80x80")) == content_id(b"source", recipe("50x50", "80x80"))
    assert recipe_id(recipe("50x50@blur")) == recipe_id(recipe("50x50", fit="blur"))
