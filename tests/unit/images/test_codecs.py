"""The fast codecs next to Pillow: they give the same pictures, or None for unsupported ones."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.Image import Resampling

from pipeline.images import codecs
from tests.support.missing import sitecustomize
from tests.support.pictures import difference, encoded, photograph

#: The maximum difference of a channel between two implementations of the same filter.
ROUNDING = 3


@pytest.fixture(params=["Pillow", pytest.param("pic-scale", marks=pytest.mark.needs("pic_scale"))])
def resizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resize with Pillow, and then with pic-scale."""
    if request.param == "Pillow":
        monkeypatch.setattr(codecs, "_shrink", None)


@pytest.mark.usefixtures("resizer")
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("kernel", [Resampling.LANCZOS, Resampling.BICUBIC])
@pytest.mark.parametrize(
    ("box", "whole"),
    [
        ((10.5, 0.0, 289.5, 240.0), (10, 0, 289, 240)),
        ((10.25, 3.0, 289.75, 240.0), (10, 3, 290, 240)),
        ((0.0, 0.0, 299.99999999, 240.0), (0, 0, 300, 240)),
    ],
)
def test_reductions_are_pillows_of_whole_pixels(
    mode: str, kernel: Resampling, box: tuple[float, float, float, float], whole: tuple[int, int, int, int]
) -> None:
    image = photograph(mode)
    expected = image.resize((100, 90), kernel, box=whole)
    made = codecs.resize(image, (100, 90), box, kernel)
    assert made.mode == mode
    assert difference(made, expected) <= ROUNDING


@pytest.mark.usefixtures("resizer")
def test_premultiplied_alpha_is_kept() -> None:
    image = photograph("RGBA").convert("RGBa")
    made = codecs.resize(image, (60, 40), (0, 0, 300, 240), Resampling.LANCZOS)
    expected = image.resize((60, 40), Resampling.LANCZOS)
    assert made.mode == "RGBa"
    # The bytes under another name: converted to RGBA, a rounding would count for more where the picture is transparent.
    premultiplied = [Image.frombytes("RGBA", each.size, each.tobytes()) for each in (made, expected)]
    assert difference(*premultiplied) <= ROUNDING


@pytest.mark.needs("pic_scale")
@pytest.mark.parametrize(("most", "is_used"), [(280 * 240, True), (280 * 240 - 1, False)])
def test_pic_scale_copies_not_too_many_pixels(monkeypatch: pytest.MonkeyPatch, most: int, is_used: bool) -> None:
    # Given the size of a part that pic-scale may copy
    module, used = importlib.import_module("pic_scale"), []
    resize = module.resize
    monkeypatch.setattr(module, "resize", lambda *args, **options: used.append(1) or resize(*args, **options))
    monkeypatch.setattr(codecs, "_MAX_COPIED", most)
    # When a part is resized
    box = (10, 0, 290, 240)
    made = codecs.resize(photograph("RGB"), (100, 80), box, Resampling.LANCZOS)
    # Then by pic-scale if it is not too large, otherwise by Pillow
    assert bool(used) == is_used
    assert difference(made, photograph("RGB").resize((100, 80), Resampling.LANCZOS, box=box)) <= ROUNDING


@pytest.mark.parametrize(("edges", "whole"), [((1.5, 2.5), (1, 2)), ((0.5, 3.5), (0, 3)), ((0.2, 3.8), (0, 4))])
def test_a_part_of_whole_pixels_is_never_empty_or_outside(edges: tuple[float, float], whole: tuple[int, int]) -> None:
    left, right = edges
    assert codecs._whole((left, left, right, right)) == (whole[0], whole[0], whole[1], whole[1])


@pytest.mark.parametrize("size", [(600, 480), (600, 100), (100, 600)])
def test_enlargements_match_pillows_bicubic(size: tuple[int, int]) -> None:
    image = photograph("RGB")
    expected = image.resize(size, Resampling.BICUBIC, reducing_gap=2.0)
    assert difference(codecs.resize(image, size, (0, 0, 300, 240), Resampling.LANCZOS), expected) == 0


@pytest.mark.needs("kornia_rs")
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_png_is_decoded_pixel_for_pixel(mode: str) -> None:
    image = photograph(mode)
    assert difference(codecs.decode_png(encoded(image, "PNG"), image.size, mode), image) == 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_png_is_encoded_pixel_for_pixel(mode: str) -> None:
    image = photograph(mode)
    assert difference(Image.open(io.BytesIO(codecs.encode_png(image, level=2))), image) == 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_without_its_wheel_pillow_decodes_and_encodes_png(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    # Given a picture, encoded by the installed library
    image = photograph(mode)
    fast = codecs.encode_png(image, level=2)
    monkeypatch.setattr(codecs, "_png_codec", lambda: None)
    # When only Pillow is available, then it decodes, and encodes as well and about as small
    assert codecs.decode_png(fast, image.size, mode) is None
    slow = codecs.encode_png(image, level=2)
    assert difference(Image.open(io.BytesIO(slow)), image) == 0
    assert len(slow) <= 1.2 * len(fast)


def broken(*_: object, **__: object) -> None:
    raise TypeError("takes other arguments now")


@pytest.mark.needs("kornia_rs")
@pytest.mark.parametrize("where", ["io.decode_image_png_u8", "image.Image"])
@pytest.mark.parametrize("change", ["moved", "other arguments", "other pixels"])
def test_an_incompatible_kornia_is_not_used(monkeypatch: pytest.MonkeyPatch, where: str, change: str) -> None:
    # Given a kornia-rs function that is missing, has other arguments, or gives another result
    room, name = where.split(".")
    module = getattr(importlib.import_module("kornia_rs"), room)
    if change == "moved":
        monkeypatch.delattr(module, name)
    else:
        monkeypatch.setattr(module, name, broken if change == "other arguments" else lambda *_, **__: bytes(24))
    # When it is looked up, then Pillow is used instead
    assert codecs._found("kornia-rs", codecs._load_kornia) is None


@pytest.mark.needs("pic_scale")
@pytest.mark.parametrize("name", ["resize", "Resampling"])
def test_an_incompatible_resizer_is_not_used(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert codecs._found("pic-scale", codecs._load_pic_scale) is not None
    monkeypatch.delattr(importlib.import_module("pic_scale"), name)
    assert codecs._found("pic-scale", codecs._load_pic_scale) is None


class PanicException(BaseException):
    """Has the name of the exception for a panic in Rust."""


@pytest.mark.parametrize("error", [ImportError, AttributeError, OSError, ValueError, PanicException])
def test_a_library_may_fail_in_any_way(error: type[BaseException]) -> None:
    def load() -> None:
        raise error

    assert codecs._found("it", load) is None


def test_an_interrupt_does_not_count_as_a_librarys_failure() -> None:
    def load() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        codecs._found("it", load)


@pytest.mark.needs("kornia_rs", "pic_scale")
def test_a_standard_installation_uses_only_fast_codecs() -> None:
    assert codecs.fast_paths() == {"PNG": "kornia-rs", "resizing": "pic-scale"}


PROGRAM = """
from pipeline.images import codecs
print(sorted(set(codecs.fast_paths().values())))
"""


@pytest.mark.parametrize(
    ("missing", "used"),
    [
        ("kornia_rs", ["Pillow", "pic-scale"]),
        ("pic_scale", ["Pillow", "kornia-rs"]),
        ("kornia_rs,pic_scale", ["Pillow"]),
    ],
)
@pytest.mark.needs("kornia_rs", "pic_scale")
def test_a_missing_package_is_replaced(missing: str, used: list[str]) -> None:
    path = os.pathsep.join([sitecustomize.FOLDER, str(Path(__file__).parents[3])])
    environment = {**os.environ, sitecustomize.WITHOUT: missing, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, check=True, text=True)
    assert done.stdout == f"{used}\n"
    assert done.stderr == ""


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", encoded(photograph("RGB"), "PNG")[:-300], b"no image"])
def test_a_broken_png_is_left_to_pillow(data: bytes) -> None:
    assert codecs.decode_png(data, (300, 240), "RGB") is None


@pytest.mark.parametrize(
    ("box", "size", "is_larger"),
    [
        ((0, 0, 100, 80), (100, 80), False),
        ((0, 0, 100, 80), (101, 80), True),
        ((0, 0, 100, 80), (100, 81), True),
        ((20, 0, 100, 80), (80, 80), False),
        ((20, 0, 100, 80), (81, 80), True),
        ((0, 20, 100, 80), (50, 60), False),
        ((0, 20, 100, 80), (50, 61), True),
    ],
)
def test_only_enlargements_use_pillows_bicubic(box: tuple[float, ...], size: tuple[int, int], is_larger: bool) -> None:
    noise = Image.effect_noise((100, 80), 90).convert("RGB")
    made = codecs.resize(noise, size, box, Image.Resampling.LANCZOS).tobytes()
    larger = noise.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0).tobytes()
    if is_larger:
        assert made == larger
    else:
        expected = noise.resize(size, Image.Resampling.LANCZOS, box=box).tobytes()
        assert max(abs(a - b) for a, b in zip(made, expected, strict=True)) <= 2
