"""The exact limits of a source, format detection by its first bytes, and the translation of errors."""

from __future__ import annotations

import pytest
from PIL import Image

from pipeline.errors import PermanentError
from pipeline.images import identify as identifying
from pipeline.images import opening as openers
from pipeline.images.opening import open_image
from tests.support.pictures import corners, encoded

PLENTY = 1_000_000
PICTURES = {name: encoded(corners(50, 40), name) for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")}
PROGRESSIVE = encoded(corners(50, 40), "JPEG", progressive=True)


def refused(source: bytes) -> str:
    with pytest.raises(PermanentError) as caught:
        open_image(source, PLENTY)
    return caught.value.code


@pytest.mark.parametrize("name", PICTURES)
def test_a_side_may_be_as_long_as_the_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identifying, "MAX_SIDE", 50)
    assert open_image(PICTURES[name], PLENTY).format == name
    monkeypatch.setattr(identifying, "MAX_SIDE", 49)
    assert refused(PICTURES[name]) == "too_large"


@pytest.mark.parametrize(
    ("name", "bytes_a_pixel"),
    [("JPEG", 4), ("PNG", 13), ("GIF", 6), ("BMP", 9), ("TIFF", 14), ("WEBP", 17), ("AVIF", 14)],
)
def test_decoding_memory_is_limited(name: str, bytes_a_pixel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_image(PICTURES[name], PLENTY)
    needed = 50 * 40 * bytes_a_pixel
    assert opened.decoder_bytes == needed
    monkeypatch.setattr(openers, "MAX_DECODER_BYTES", needed)
    opened.check_decoding(50 * 40)
    monkeypatch.setattr(openers, "MAX_DECODER_BYTES", needed - 1)
    with pytest.raises(PermanentError, match="too_large"):
        opened.check_decoding(50 * 40)


def test_a_progressive_jpegs_coefficients_count() -> None:
    # Given blocks of 16 x 16 pixels with four of luma and two of chroma, four by three of them
    assert open_image(PROGRESSIVE, PLENTY).decoder_bytes == 50 * 40 * 4 + 4 * 3 * 6 * 64 * 2


@pytest.mark.parametrize("error", [Image.DecompressionBombError, Image.DecompressionBombWarning])
def test_pillows_own_limit_is_reported_as_ours(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Image.Image:
        raise error

    monkeypatch.setattr(openers, "_pillow", refuse)
    assert refused(PICTURES["PNG"]) == "too_large"
