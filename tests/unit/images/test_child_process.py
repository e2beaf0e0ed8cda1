"""The child keeps its memory and its file of sources from one image to the next."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from pipeline.images import child_process, sandbox
from pipeline.images import render as images
from tests.support.pictures import LIMITS, corners, encoded, recipe
from tests.support.sandboxed import ONE, child

pytestmark = pytest.mark.usefixtures("own_child")


def test_a_large_image_and_its_memory_make_way_for_a_small_one() -> None:
    # Given an image of more bytes than the file keeps, rendered to many pipefuls
    noise = Image.effect_noise((1700, 1700), 200).convert("RGB")
    large, most = encoded(noise, "BMP"), {"max_pixels": 2_890_000, "max_decoded_pixels": 2_890_000}
    assert len(large) > child_process._KEPT_BYTES
    assert sandbox.render(large, recipe("1600x1600"), **most) == images.render(large, recipe("1600x1600"), **most)
    # Then its memory is free, and a small image after it is itself
    assert sandbox._SANDBOX._child
    assert os.fstat(sandbox._SANDBOX._child._file.fileno()).st_size == 0
    small = encoded(corners(), "BMP")
    assert sandbox.render(small, ONE, **LIMITS) == images.render(small, ONE, **LIMITS)


def test_an_image_gets_the_memory_of_the_one_before() -> None:
    # Given a child that has rendered two images of 36 MB, which are 9,000 pages each
    image, pixels = encoded(Image.new("RGB", (3000, 3000)), "PNG"), 9_000_000

    def cleared() -> int:
        """Render the image; returns how many pages the system has cleared for the child."""
        sandbox.render(image, ONE, max_pixels=pixels, max_decoded_pixels=pixels)
        return int(Path(f"/proc/{child()}/stat").read_text().rpartition(")")[2].split()[7])  # proc(5): minflt

    before = [cleared() for _ in range(2)]
    # When it renders another, then hardly any page is new
    assert cleared() - before[-1] < 1000
