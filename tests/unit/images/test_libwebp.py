"""The libwebp inside Pillow: it decodes smaller pictures, and is not used if it is not as expected."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
from PIL import Image, _webp
from PIL.Image import Resampling

from pipeline.images import codecs, libwebp
from pipeline.images import render as images
from tests.support.pictures import LIMITS, difference, encoded, photograph, recipe


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove Pillow's limit of pixels, which is global and may be set by other tests."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


def test_a_webp_is_decoded_at_a_smaller_size() -> None:
    image = photograph("RGB")
    made = libwebp.decode(encoded(image, "WEBP", quality=95), (150, 120))
    assert made is not None
    assert difference(made, image.resize((150, 120), Resampling.BOX)) < 60


@pytest.mark.parametrize("data", [b"", b"RIFF....WEBP", encoded(photograph("RGB"), "WEBP")[:-300]])
def test_a_broken_webp_is_left_to_pillow(data: bytes) -> None:
    assert libwebp.decode(data, (150, 120)) is None


def test_pillow_decodes_if_its_library_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libwebp, "_library", None)
    source = encoded(photograph("RGB"), "WEBP")
    assert libwebp.decode(source, (150, 120)) is None
    assert codecs.fast_paths()["WebP"] == "Pillow"
    assert images.render(source, recipe("20x20"), **LIMITS)["20x20"].startswith(b"RIFF")


class TestLookup:
    def test_it_is_found_in_pillows_own_wheel(self) -> None:
        assert libwebp._of_pillow() is not None

    @pytest.mark.parametrize("version", [0x0109, 0x0309])
    def test_another_abi_is_not_used(self, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
        monkeypatch.setattr(libwebp, "_ABI", version)
        assert libwebp._of_pillow() is None

    @pytest.mark.parametrize("size", [-8, -1, 1, 8, 200])
    def test_another_layout_is_not_used(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        # Given structures that are some bytes longer or shorter than the library's
        other = ctypes.c_char * (ctypes.sizeof(libwebp._DecoderConfig) + size)
        monkeypatch.setattr(libwebp, "_DecoderConfig", other)
        assert libwebp._of_pillow() is None

    @pytest.mark.parametrize("name", ["WebPInitDecoderConfigInternal", "WebPDecode"])
    def test_a_library_with_a_missing_function_is_not_used(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        class Library(ctypes.CDLL):
            def __getattr__(self, asked: str) -> object:
                if asked == name:
                    raise AttributeError(asked)
                return super().__getattr__(asked)

        monkeypatch.setattr(ctypes, "CDLL", Library)
        assert libwebp._of_pillow() is None

    @pytest.mark.parametrize("place", ["/nowhere/_webp.so", __file__, None])
    def test_a_missing_library_is_not_used(self, monkeypatch: pytest.MonkeyPatch, place: str | None) -> None:
        monkeypatch.setattr(_webp, "__file__", place)
        assert libwebp._of_pillow() is None

    def test_a_process_starts_without_it(self) -> None:
        # Given a Pillow that was built without WebP
        program = (
            "import sys; sys.modules['PIL._webp'] = None; "
            "from pipeline.images import codecs; print(codecs.fast_paths())"
        )
        # When its codecs are imported, then only Pillow is used
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
        assert "'WebP': 'Pillow'" in done.stdout
