"""Facts of a source: its size, mean colour, placeholder and warnings (contract, section 4)."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageFilter

from pipeline.images import child_process, sandbox
from pipeline.images.details.facts import SourceFacts, is_wrong_type, parse_facts
from pipeline.images.details.placeholder import placeholder_png
from pipeline.images.details.thumbhash import hashed
from pipeline.images.render import render
from tests.support.pictures import BLUE, LIMITS, corners, encoded, exif, is_near, recipe

ROOMY = {"max_pixels": 20_000_000, "max_decoded_pixels": 20_000_000}

#: Hashes by the reference implementation, version 0.1.1, of `drawn` pictures: width, height, and if they have alpha.
VECTORS = {
    (32, 32, False): "G6cNRxKQhod0eHeIh3eHd3d3CEl4oI8I",
    (100, 75, False): "XKcNTZCQh4d0d3iHh3d4eJCECPuH",
    (20, 60, False): "G6cJOhaQgoeId4d3oHIH+og=",
    (16, 16, True): "2aaJLRAcgHZleHd3h5BjGPmHf3hPeIeHdw==",
    (40, 24, True): "2qaJO4wcgIdleIeAZRf6h394T3eHiHc=",
    (24, 40, True): "2aaJKxIcgGN4eHeQYhf5h394T3h3iHc=",
}


def drawn(width: int, height: int, has_alpha: bool) -> Image.Image:
    """Draw a picture without symmetry, whose frequencies are never exactly zero."""
    pixels = [
        (
            x * x * 255 // (width * width),
            (x + 2 * y) * 255 // (width + 2 * height),
            (x * 31 + y * y * 17) % 256,
            255 - x * y * 200 // (width * height) if has_alpha else 255,
        )
        for y in range(height)
        for x in range(width)
    ]
    return Image.frombytes("RGBA", (width, height), bytes(value for pixel in pixels for value in pixel))


def facts_of(source: bytes, *names: str, fit: str = "cover") -> dict[str, Any]:
    facts: dict[str, Any] = {}
    render(source, recipe(*(names or ("50x50",)), fit=fit), **ROOMY, facts=facts)
    return facts


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


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO"])
def test_facts_name_format_size_and_colour(name: str) -> None:
    found = facts_of(
        encoded(Image.new("RGB", (64, 48), (10, 120, 200)), name, **({"sizes": [(64, 48)]} if name == "ICO" else {}))
    )
    assert (found["width"], found["height"], found["format"]) == (64, 48, name.lower())
    assert is_near(tuple(bytes.fromhex(found["color"][1:])), (10, 120, 200))
    assert set(found["warnings"]) >= {"not_square", "below_1400"}


@pytest.mark.parametrize("fit", ["cover", "contain", "fill"])
@pytest.mark.parametrize(("name", "orientation"), [("JPEG", 6), ("JPEG", 1), ("WEBP", 8), ("PNG", 3), ("TIFF", 6)])
def test_facts_are_of_the_whole_picture_upright(name: str, orientation: int, fit: str) -> None:
    # Given a picture twice as wide as high, turned by its metadata, whose renditions may be cropped
    stored = corners(400, 200)
    source = encoded(stored, name, exif=exif(orientation))
    upright = (200, 400) if orientation in (6, 8) else (400, 200)
    # When its facts are measured
    found = facts_of(source, "40x40", "80x80", fit=fit)
    # Then they are those of the upright picture, whole
    turned = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}
    whole = stored if turned[orientation] is None else stored.transpose(turned[orientation])
    assert (found["width"], found["height"]) == upright
    expected = hashed(whole.resize((16, 32) if upright == (200, 400) else (32, 16), Image.Resampling.BOX))
    hash_of = base64.b64decode(found["thumbhash"])
    assert len(hash_of) == len(expected.thumbhash)
    assert hash_of[4] >> 7 == expected.thumbhash[4] >> 7  # whether it is wide
    assert (hash_of[0] & 63) - (expected.thumbhash[0] & 63) in {-1, 0, 1}  # lightness
    assert is_near(tuple(bytes.fromhex(found["color"][1:])), expected.colour, 6)


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


@pytest.mark.parametrize(
    ("side", "expected"), [(1399, {"below_1400"}), (1400, set()), (3000, set()), (3001, {"above_3000"})]
)
def test_sizes_are_compared_with_apples_rules(side: int, expected: set[str]) -> None:
    assert set(facts_of(encoded(Image.new("RGB", (side, side)), "PNG"))["warnings"]) == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: encoded(Image.new("RGB", (1400, 1400)), "JPEG"), set()),
        (lambda: encoded(Image.new("CMYK", (1400, 1400)), "JPEG"), {"not_rgb"}),
        (lambda: encoded(Image.new("L", (1400, 1400)), "JPEG"), {"not_rgb"}),
        (lambda: encoded(Image.new("I;16", (1400, 1400)), "PNG"), {"not_rgb"}),
        (lambda: encoded(Image.new("LA", (1400, 1400)), "PNG"), {"not_rgb", "has_alpha"}),
        (lambda: encoded(Image.new("RGBA", (1400, 1400), "red"), "PNG"), {"has_alpha"}),
        (lambda: encoded(Image.new("P", (1400, 1400)), "PNG", transparency=0), {"has_alpha"}),
        (lambda: encoded(Image.new("RGBA", (1400, 1400), (9, 9, 9, 9)), "WEBP"), {"has_alpha"}),
        (lambda: encoded(Image.new("RGB", (1400, 1400), "red"), "WEBP"), set()),
    ],
)
def test_alpha_and_colours_other_than_rgb_are_named(make: Callable[[], bytes], expected: set[str]) -> None:
    assert set(facts_of(make())["warnings"]) == expected


@pytest.mark.parametrize(
    ("content_type", "name", "wrong"),
    [
        ("image/jpeg", "JPEG", False),
        ("IMAGE/JPG; charset=binary", "JPEG", False),
        ("", "JPEG", False),
        ("image/png", "JPEG", True),
        ("text/html", "PNG", True),
        ("application/octet-stream", "WEBP", True),
        ("image/vnd.microsoft.icon", "ICO", False),
    ],
)
def test_a_content_type_of_another_format_is_wrong(content_type: str, name: str, wrong: bool) -> None:
    assert is_wrong_type(content_type, name) is wrong


def test_measuring_changes_no_byte_of_the_renditions() -> None:
    for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF"):
        source = encoded(corners(100, 80), name)
        assert render(source, recipe("50x50", "20x20"), **LIMITS, facts={}) == render(
            source, recipe("50x50", "20x20"), **LIMITS
        )


def test_facts_survive_the_metadata_of_an_object() -> None:
    facts = SourceFacts(3000, 3000, "jpeg", "#606055", VECTORS[32, 32, False], 9, "0" * 64, ("animated",))
    assert parse_facts(facts.to_json()) == facts
    assert facts.to_json().isascii()
    for other in ("", "{}", "null", facts.to_json().replace("#606055", "<script>"), facts.to_json() + "x"):
        assert parse_facts(other) is None


class TestSandbox:
    def test_it_returns_the_facts_with_the_renditions(self) -> None:
        source = encoded(corners(), "PNG")
        made, facts = sandbox.render_with_facts(source, recipe("50x50"), **LIMITS)
        assert made == render(source, recipe("50x50"), **LIMITS)
        assert (facts.width, facts.height, facts.bytes, facts.format) == (64, 64, len(source), "png")

    @pytest.mark.parametrize(
        "change",
        [{"color": "red"}, {"thumbhash": "<svg>"}, {"warnings": ["made_up"]}, {"width": 0}, {"format": "../jpeg"}],
    )
    def test_facts_of_another_form_are_not_believed(
        self, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a child that an image has taken over, and whose facts are forged
        exchange = child_process.ChildProcess.exchange

        def forged(*arguments: Any, **limits: Any) -> tuple[bytes, bytes]:
            head, body = exchange(*arguments, **limits)
            answer = json.loads(head)
            answer["facts"] |= change
            return json.dumps(answer).encode(), body

        monkeypatch.setattr(child_process.ChildProcess, "exchange", forged)
        # When the image is rendered, then it is refused like an image that crashed its decoder
        with pytest.raises(sandbox.PermanentError) as caught:
            sandbox.render_with_facts(encoded(corners(), "PNG"), recipe("50x50"), **LIMITS)
        assert caught.value.code == "broken_image"
