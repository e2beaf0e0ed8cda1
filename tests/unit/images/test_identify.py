"""Identifying a source by its header: its format, the errors, and giants."""

from __future__ import annotations

import struct

import pytest
from PIL import Image, ImageFile

from pipeline.errors import PermanentError, PipelineError, Rejected, RetryableError
from pipeline.images import codecs
from pipeline.images.containers.jpeg import read_jpeg
from pipeline.images.containers.model import File
from pipeline.images.identify import identify, image_errors
from pipeline.images.render import render
from tests.support.pictures import (
    LIMITS,
    corners,
    encoded,
    png_header,
    recipe,
)


@pytest.mark.parametrize(
    ("error", "source", "kind", "code"),
    [
        (MemoryError(), b"", RetryableError, "out_of_memory"),
        (OSError("broken"), b"\xff\xd8\xff", PermanentError, "broken_image"),
        (ZeroDivisionError(), b"\x89PNG", PermanentError, "broken_image"),
        (KeyError("PDF"), b"%PDF-", PermanentError, "unsupported_format"),
        (KeyError("None"), b"<html>", PermanentError, "not_an_image"),
        (Rejected("bad_field", "Ours."), b"", Rejected, "bad_field"),
    ],
)
def test_every_error_becomes_one_of_ours(error: Exception, source: bytes, kind: type[PipelineError], code: str) -> None:
    with pytest.raises(PipelineError) as caught, image_errors(source):
        raise error
    assert (type(caught.value), caught.value.code) == (kind, code)


MAX_PIXELS = 178_000_000


def jpeg_header(side: int, *, progressive: bool = False) -> bytes:
    """Return a small JPEG whose header claims another size."""
    small = encoded(Image.new("RGB", (16, 16)), "JPEG", progressive=progressive)
    assert read_jpeg(File(small)).scans == (10 if progressive else 1)
    frame = small.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    return small[: frame + 5] + struct.pack(">HH", side, side) + small[frame + 9 :]


@pytest.mark.parametrize(
    ("source", "is_giant"),
    [
        pytest.param(jpeg_header(3000), False, id="the largest cover that directories accept"),
        pytest.param(jpeg_header(3000, progressive=True), False, id="the same, progressive"),
        pytest.param(png_header(3000, 3000), False, id="the same as a PNG"),
        pytest.param(jpeg_header(10_000), False, id="a single pass over 100 megapixels is quick"),
        pytest.param(jpeg_header(10_000, progressive=True), True, id="ten passes over 100 megapixels"),
        pytest.param(png_header(5000, 5000), True, id="a PNG of 25 megapixels"),
    ],
)
def test_giants_are_recognized_by_pixels_and_passes(source: bytes, is_giant: bool) -> None:
    assert identify(source, max_pixels=MAX_PIXELS).is_giant is is_giant


def bitmap(side: int, compression: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, compression, 4, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1082, 0, 0, 1078) + header + bytes(1024) + b"\0\1\0\0"


def test_run_length_coding_makes_a_bitmap_a_giant() -> None:
    assert not identify(bitmap(3000, 0), max_pixels=MAX_PIXELS).is_giant
    assert identify(bitmap(3000, 1), max_pixels=MAX_PIXELS).is_giant


def test_identify_does_not_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given that decoding is forbidden
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    sources = [encoded(corners(), name) for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO")]
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    monkeypatch.setattr(codecs, "decode_png", refuse)
    # Then identify still recognizes each format
    assert {identify(source, max_pixels=4096).extension for source in sources} == {".jpeg", ".png", ".gif", ".webp"}
    with pytest.raises(PermanentError):
        render(sources[1], recipe("5x5"), **LIMITS)
