"""Content ids name pictures: other pictures need other ids."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from pipeline.images.codecs import fast_paths
from pipeline.images.content_id import content_id, recipe_id
from pipeline.images.render import render
from tests.support.pictures import LIMITS, encoded, recipe

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
