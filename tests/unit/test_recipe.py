"""Recipes: their forms in settings and in messages."""

from __future__ import annotations

import pytest

from pipeline.recipe import Recipe, check_apart, parse_rendition
from tests.support.pictures import recipe


def test_a_recipe_survives_encoding() -> None:
    wanted = recipe("50x50", "250X250", fit="fill")
    assert wanted.encode() == {"renditions": ["50x50", "250X250"], "fit": "fill"}
    assert Recipe.decode(wanted.encode()) == wanted


@pytest.mark.parametrize(
    "data",
    [
        {"renditions": [], "fit": "cover"},
        {"renditions": ["50"], "fit": "cover"},
        {"renditions": [50], "fit": "cover"},
        {"renditions": ["5x5"], "fit": ""},
        {"renditions": ["5x5"], "fit": []},
        {"renditions": ["5x5"]},
        {"renditions": ["5x5@crop"], "fit": "cover"},
        {"renditions": ["5x5"], "fit": "cover", "formats": "bmp"},
        None,
    ],
)
def test_a_bad_recipe_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"rendition|not <width>|not one of|not a recipe"):
        Recipe.decode(data)


def test_a_name_does_not_contain_the_fit_of_its_rendition() -> None:
    made = parse_rendition("1200X630.webp@blur")
    assert (made.name, made.width, made.height, made.extension, made.fit) == (
        "1200X630.webp",
        1200,
        630,
        ".webp",
        "blur",
    )
    assert str(made) == "1200X630.webp@blur"
    assert str(parse_rendition("50x50")) == "50x50"


def test_renditions_without_a_fit_have_that_of_the_recipe() -> None:
    made = recipe("50x50", "1200x630@blur", fit="contain")
    assert [each.fit for each in made.renditions] == ["contain", "blur"]
    assert made.encode() == {"renditions": ["50x50", "1200x630@blur"], "fit": "contain"}
    assert Recipe.decode(made.encode()) == made


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (recipe("50x50@cover", "80x80"), recipe("50x50", "80x80")),
        (recipe("50x50@blur", "80x80@blur", fit="fill"), recipe("50x50", "80x80", fit="blur")),
        (recipe("50x50@contain", "80x80"), recipe("50x50", "80x80@cover", fit="contain")),
        (recipe("50x50.webp", formats="jpeg,png"), recipe("50x50.webp")),
    ],
)
def test_recipes_of_the_same_pictures_are_equal(one: Recipe, other: Recipe) -> None:
    assert one == other
    assert one.encode() == other.encode()


def test_output_formats_are_part_of_a_recipe_only_if_set() -> None:
    assert recipe("50x50").encode() == {"renditions": ["50x50"], "fit": "cover"}
    made = recipe("50x50", formats="jpeg,png")
    assert made.encode() == {"renditions": ["50x50"], "fit": "cover", "formats": "jpeg,png"}
    assert Recipe.decode(made.encode()) == made


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("800x800", "800x800"), "'800x800' and '800x800' have the same size and format"),
        (("800x800", "800x800@blur"), "'800x800' and '800x800@blur' have the same size and format"),
        (("250x250", "50x50", "250X250@blur"), "'250x250' and '250X250@blur' have the same size and format"),
        (("800x800.webp@fill", "800x800.webp@blur"), "have the same size and format"),
        (("800x800@blur", "800x800.jpeg"), "'800x800@blur' and '800x800.jpeg' may be the same object"),
    ],
)
def test_two_renditions_of_one_object_are_refused(names: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_apart([parse_rendition(name) for name in names])


@pytest.mark.parametrize(
    "names",
    [
        ("800x800", "800x800.webp", "800x800.avif"),
        ("800x800@blur", "800x800.webp@blur"),
        ("800x800.jpeg@blur", "800x800.webp@cover"),
        ("1200x630@blur", "630x1200@blur", "800x800"),
    ],
)
def test_renditions_that_are_objects_of_their_own_are_accepted(names: tuple[str, ...]) -> None:
    check_apart([parse_rendition(name) for name in names])
