"""The fast codecs beside Pillow: the same pictures, and None for what they do not take."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageChops
from PIL.Image import Resampling

from pipeline.images import codecs
from tests.support.pictures import encoded

#: The greatest difference of a channel between two implementations of the same filter.
ROUNDING = 3


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit of pixels is global, and other tests leave theirs."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


def photograph(mode: str, size: tuple[int, int] = (300, 240)) -> Image.Image:
    """Something with slopes, edges and noise in every channel."""
    bands = [
        Image.linear_gradient("L").rotate(90 * n).resize(size).point(lambda value, n=n: (value * (n + 2)) % 256)
        for n in range(len(Image.new(mode, (1, 1)).getbands()))
    ]
    return Image.merge(mode, bands) if len(bands) > 1 else bands[0]


def difference(one: Image.Image, other: Image.Image) -> int:
    assert (one.mode, one.size) == (other.mode, other.size)
    return max(band.getextrema()[1] for band in ImageChops.difference(one, other).split())


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("kernel", [Resampling.LANCZOS, Resampling.BICUBIC])
def test_what_becomes_smaller_is_as_pillow_makes_it(mode: str, kernel: Resampling) -> None:
    image, box = photograph(mode), (10.5, 0.0, 290.25, 240.0)
    expected = image.resize((100, 90), kernel, box=box)
    assert difference(codecs.resize(image, (100, 90), box, kernel), expected) <= ROUNDING


def test_what_is_multiplied_by_alpha_stays_so() -> None:
    image = photograph("RGBA").convert("RGBa")
    made = codecs.resize(image, (60, 40), (0, 0, 300, 240), Resampling.LANCZOS)
    expected = image.resize((60, 40), Resampling.LANCZOS)
    assert made.mode == "RGBa"
    assert difference(made.convert("RGBA").getchannel("A"), expected.convert("RGBA").getchannel("A")) <= ROUNDING


@pytest.mark.parametrize("size", [(600, 480), (600, 100), (100, 600)])
def test_what_becomes_larger_is_as_pillows_bicubic_makes_it(size: tuple[int, int]) -> None:
    image = photograph("RGB")
    expected = image.resize(size, Resampling.BICUBIC, reducing_gap=2.0)
    assert difference(codecs.resize(image, size, (0, 0, 300, 240), Resampling.LANCZOS), expected) == 0


def test_without_its_wheel_pillow_resizes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ((100, 80), (0, 0, 300, 240), Resampling.LANCZOS)
    fast = codecs.resize(photograph("RGB"), *asked)
    monkeypatch.setattr(codecs, "cykooz", None)
    assert difference(codecs.resize(photograph("RGB"), *asked), fast) <= ROUNDING


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_png_is_decoded_and_encoded_pixel_for_pixel(mode: str) -> None:
    image = photograph(mode)
    assert difference(codecs.decode_png(encoded(image, "PNG"), image.size, mode), image) == 0
    assert difference(Image.open(io.BytesIO(codecs.encode_png(image, level=2))), image) == 0


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", encoded(photograph("RGB"), "PNG")[:-300], b"no image"])
def test_a_broken_png_is_left_to_pillow(data: bytes) -> None:
    assert codecs.decode_png(data, (300, 240), "RGB") is None


def test_a_webp_is_decoded_smaller() -> None:
    image = photograph("RGB")
    made = codecs.decode_webp(encoded(image, "WEBP", quality=95), (150, 120))
    assert made is not None
    assert difference(made, image.resize((150, 120), Resampling.BOX)) < 60


@pytest.mark.parametrize("data", [b"", b"RIFF....WEBP", encoded(photograph("RGB"), "WEBP")[:-300]])
def test_a_broken_webp_is_left_to_pillow(data: bytes) -> None:
    assert codecs.decode_webp(data, (150, 120)) is None


def test_where_pillows_library_cannot_be_found_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "_libwebp", None)
    assert codecs.decode_webp(encoded(photograph("RGB"), "WEBP"), (150, 120)) is None
