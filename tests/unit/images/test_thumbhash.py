"""ThumbHashes are those of the reference implementation."""

from __future__ import annotations

import base64

import pytest
from PIL import Image

from pipeline.images.details.thumbhash import hashed
from tests.support.measured import VECTORS, drawn
from tests.support.pictures import BLUE


class TestThumbHash:
    @pytest.mark.parametrize("size", VECTORS)
    def test_it_is_that_of_the_reference_implementation(self, size: tuple[int, int, bool]) -> None:
        assert base64.b64encode(hashed(drawn(*size)).thumbhash).decode() == VECTORS[size]

    @pytest.mark.parametrize("size", [(32, 32), (32, 24), (5, 32)])
    @pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 10, 30)])
    def test_a_plain_picture_has_its_colour_and_no_other_frequency(
        self, size: tuple[int, int], colour: tuple[int, int, int]
    ) -> None:
        found = hashed(Image.new("RGB", size, colour))
        assert found.colour == colour
        assert set(found.thumbhash[5:]) <= {0}

    def test_transparent_pixels_do_not_tint_the_mean(self) -> None:
        picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
        picture.paste((0, 0, 255, 255), (0, 0, 4, 8))
        assert hashed(picture).colour == BLUE
        assert hashed(Image.new("RGBA", (8, 8), (255, 0, 0, 0))).colour == (0, 0, 0)
