"""A placeholder looks like the picture that was hashed."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image, ImageChops, ImageFilter

from pipeline.images.details.placeholder import placeholder_png
from pipeline.images.details.thumbhash import hashed
from tests.support.measured import VECTORS, drawn


@pytest.mark.parametrize("size", VECTORS)
def test_a_placeholder_looks_like_its_picture(size: tuple[int, int, bool]) -> None:
    # Given a picture without sharp edges, and the placeholder of its hash
    picture = drawn(*size).filter(ImageFilter.GaussianBlur(8))
    found = hashed(picture)
    placeholder = Image.open(io.BytesIO(placeholder_png(base64.urlsafe_b64encode(found.thumbhash).decode())))
    # Then it has nearly the shape, of which the hash has three bits, and nearly the colours of the picture
    assert abs(placeholder.width / placeholder.height - size[0] / size[1]) < 0.2
    mode = "A" if size[2] else "RGB"  # where pixels are transparent, the hash has the mean colour
    bands = [placeholder.getchannel(band) for band in mode]
    expected = picture.resize(placeholder.size, Image.Resampling.BOX)
    for made, wanted in zip(bands, (expected.getchannel(band) for band in mode), strict=True):
        assert ImageChops.difference(made, wanted).getextrema()[1] <= 60


@pytest.mark.parametrize("text", ["", "x", "AAAAAAAA", "V/gNHwZ5", "V/gNHwZ5dohwiHd6iGh5iHaJdgaXV3AGAAAA", "é"])
def test_other_texts_have_no_placeholder(text: str) -> None:
    with pytest.raises(ValueError, match="is not a ThumbHash"):
        placeholder_png(text)
