"""Whether a source has more than one frame."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.support.measured import facts_of
from tests.support.pictures import corners, encoded


def animation(name: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return encoded(frames[0], name, save_all=True, append_images=frames[1:], duration=100)


@pytest.mark.parametrize("name", ["PNG", "GIF", "WEBP", "AVIF"])
def test_an_animation_is_named(name: str) -> None:
    assert "animated" in facts_of(animation(name))["warnings"]
    assert "animated" not in facts_of(encoded(corners(), name))["warnings"]


def test_a_gif_that_ends_after_its_first_picture_is_no_animation() -> None:
    whole = animation("GIF")
    second = whole.rindex(b"!\xf9")
    assert "animated" not in facts_of(whole[:second] + b";")["warnings"]
    # And a comment between the pictures does not hide the second
    assert "animated" in facts_of(whole[:second] + b"!\xfe\x02,;\0" + whole[second:])["warnings"]
