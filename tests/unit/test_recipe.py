"""Recipes: their forms in settings and in messages."""

from __future__ import annotations

import pytest

from pipeline.recipe import Recipe
from tests.support.pictures import (
    recipe,
)


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
        None,
    ],
)
def test_a_bad_recipe_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"rendition|not <width>|not one of|not a recipe"):
        Recipe.decode(data)
