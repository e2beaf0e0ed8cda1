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

#: What loads each resizer, by the name of its package.
RESIZERS = {"cykooz_resizer": codecs._load_cykooz, "pic_scale": codecs._load_pic_scale}

#: The maximum difference of a channel between two implementations of the same filter.
ROUNDING = 3


@pytest.fixture(params=["", *(pytest.param(name, marks=pytest.mark.needs(name)) for name in RESIZERS)])
def resizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pillow, and then each of the resizers."""
    monkeypatch.setattr(codecs, "_shrink", RESIZERS[request.param]() if request.param else None)
    return str(request.param)


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove Pillow's limit of pixels, which is global and may be set by other tests."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


@pytest.mark.usefixtures("resizer")
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("kernel", [Resampling.LANCZOS, Resampling.BICUBIC])
@pytest.mark.parametrize("box", [(10.5, 0.0, 290.25, 240.0), (10.0, 3.0, 290.0, 240.0), (0.0, 0.0, 300.0, 240.0)])
def test_reductions_match_pillows(mode: str, kernel: Resampling, box: tuple[float, float, float, float]) -> None:
    image = photograph(mode)
    expected = image.resize((100, 90), kernel, box=box)
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
@pytest.mark.parametrize(
    ("box", "most", "is_used"),
    [
        ((0.0, 0.0, 300.0, 240.0), 300 * 240, True),
        ((0.0, 0.0, 300.0, 240.0), 300 * 240 - 1, False),
        ((0.0, 0.0, 299.5, 240.0), 300 * 240, False),
        ((0.0, 0.0, 299.99999999, 240.0), 300 * 240, True),
    ],
)
def test_pic_scale_gets_only_whole_pixels_and_not_too_many(
    monkeypatch: pytest.MonkeyPatch, box: tuple[float, float, float, float], most: int, is_used: bool
) -> None:
    # Given the size of a part that pic-scale may copy
    shrink, module, used = codecs._load_pic_scale(), importlib.import_module("pic_scale"), []
    resize = module.resize
    monkeypatch.setattr(module, "resize", lambda *args, **options: used.append(1) or resize(*args, **options))
    monkeypatch.setattr(codecs, "_MAX_COPIED", most)
    # When a part is resized
    made = shrink(photograph("RGB"), (100, 80), box, Resampling.LANCZOS)
    # Then by pic-scale if it is whole and not too large, otherwise by Pillow
    assert bool(used) == is_used
    assert difference(made, photograph("RGB").resize((100, 80), Resampling.LANCZOS, box=box)) <= ROUNDING


@pytest.mark.parametrize("size", [(600, 480), (600, 100), (100, 600)])
def test_enlargements_match_pillows_bicubic(size: tuple[int, int]) -> None:
    image = photograph("RGB")
    expected = image.resize(size, Resampling.BICUBIC, reducing_gap=2.0)
    assert difference(codecs.resize(image, size, (0, 0, 300, 240), Resampling.LANCZOS), expected) == 0


def test_without_its_wheel_pillow_resizes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ((100, 80), (0, 0, 300, 240), Resampling.LANCZOS)
    fast = codecs.resize(photograph("RGB"), *asked)
    monkeypatch.setattr(codecs, "_shrink", None)
    assert difference(codecs.resize(photograph("RGB"), *asked), fast) <= ROUNDING


@pytest.mark.needs("kornia_rs", "numpy")
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


@pytest.mark.needs("kornia_rs", "numpy")
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


@pytest.mark.needs("cykooz_resizer", "pic_scale")
@pytest.mark.parametrize(
    ("package", "name"),
    [("cykooz_resizer", name) for name in ("Resizer", "ResizeAlg", "FilterType", "CropBox", "ResizeOptions")]
    + [("pic_scale", name) for name in ("resize", "Resampling")],
)
def test_an_incompatible_resizer_is_not_used(monkeypatch: pytest.MonkeyPatch, package: str, name: str) -> None:
    assert codecs._found(package, RESIZERS[package]) is not None
    monkeypatch.delattr(importlib.import_module(package), name)
    assert codecs._found(package, RESIZERS[package]) is None


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


@pytest.mark.needs("kornia_rs", "numpy", "cykooz_resizer")
def test_a_standard_installation_uses_only_fast_codecs() -> None:
    assert codecs.fast_paths() == {"PNG": "kornia-rs", "resizing": "cykooz-resizer"}


PROGRAM = """
from pipeline.images import codecs
print(sorted(set(codecs.fast_paths().values())))
"""


@pytest.mark.parametrize(
    ("missing", "used"),
    [
        ("kornia_rs", ["Pillow", "cykooz-resizer"]),
        ("numpy", ["Pillow", "cykooz-resizer"]),
        ("cykooz_resizer", ["kornia-rs", "pic-scale"]),
        ("cykooz_resizer,pic_scale", ["Pillow", "kornia-rs"]),
        ("kornia_rs,numpy,cykooz_resizer,pic_scale", ["Pillow"]),
    ],
)
@pytest.mark.needs("kornia_rs", "numpy", "cykooz_resizer", "pic_scale")
def test_a_missing_package_is_replaced(missing: str, used: list[str]) -> None:
    path = os.pathsep.join([sitecustomize.FOLDER, str(Path(__file__).parents[3])])
    environment = {**os.environ, sitecustomize.WITHOUT: missing, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, check=True, text=True)
    assert done.stdout == f"{used}\n"
    assert done.stderr == ""


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", encoded(photograph("RGB"), "PNG")[:-300], b"no image"])
def test_a_broken_png_is_left_to_pillow(data: bytes) -> None:
    assert codecs.decode_png(data, (300, 240), "RGB") is None
