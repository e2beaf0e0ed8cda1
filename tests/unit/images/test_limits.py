"""The exact limits of a source, format detection by its first bytes, and the translation of errors."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from pipeline.errors import PermanentError, PipelineError, Rejected, RetryableError
from pipeline.images import codecs, decoding
from pipeline.images import identify as identifying
from pipeline.images import opening as openers
from pipeline.images.containers import jpeg
from pipeline.images.containers.jpeg import read_jpeg
from pipeline.images.containers.model import File
from pipeline.images.identify import format_of, image_errors
from pipeline.images.opening import open_image
from tests.support.pictures import corners, encoded, icon, rendered

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


def test_a_jpeg_may_have_as_many_passes_as_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a progressive JPEG of about ten passes
    scans = read_jpeg(File(PROGRESSIVE)).scans
    assert scans > 5
    for limit, most in (("MAX_SCANS", scans), ("MAX_SCANNED_PIXELS", scans * 50 * 40)):
        with monkeypatch.context() as patch:
            patch.setattr(jpeg, limit, most)
            assert open_image(PROGRESSIVE, PLENTY).image.size == (50, 40)
            patch.setattr(jpeg, limit, most - 1)
            assert refused(PROGRESSIVE) == "too_large"


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


@pytest.mark.parametrize(
    ("width", "double_height", "is_accepted"),
    [(256, 512, True), (257, 512, False), (256, 514, False), (-257, 2, False), (2, -514, False)],
)
def test_an_icons_bitmap_is_no_larger_than_256(width: int, double_height: int, is_accepted: bool) -> None:
    bitmap = struct.pack("<IiiHHIIiiII", 40, width, double_height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(300_000)
    if is_accepted:
        assert open_image(icon(bitmap), PLENTY).image.size == (256, 256)
    else:
        assert refused(icon(bitmap)) == "broken_image"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x20ftypheic", "HEIC"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0heic", "HEIC"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0avif", "AVIF"),
        (b"\0\0\0\x20ftypavis", "AVIF"),
        (b"<svg xmlns=", "SVG"),
        (b'\xef\xbb\xbf <?xml version="1.0"?>\n<svg', "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe", "PostScript"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"RIFF\0\0\0\0WEBP", "WEBP"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"<html>", None),
        (b" " * 1023 + b"<svg", None),
        (b"", None),
    ],
)
def test_a_source_is_recognized_by_its_first_kilobyte(head: bytes, name: str | None) -> None:
    assert format_of(head) == name


@pytest.mark.parametrize(
    ("error", "source", "kind", "code"),
    [
        (MemoryError(), b"", RetryableError, "out_of_memory"),
        (OSError("broken"), b"\xff\xd8\xff", PermanentError, "broken_image"),
        (ZeroDivisionError(), b"\x89PNG", PermanentError, "broken_image"),
        (KeyError("PDF"), b"%PDF-", PermanentError, "unsupported_format"),
        (KeyError("None"), b"<html>", PermanentError, "not_an_image"),
        (Rejected("other", "Ours."), b"", Rejected, "other"),
    ],
)
def test_every_error_becomes_one_of_ours(error: Exception, source: bytes, kind: type[PipelineError], code: str) -> None:
    with pytest.raises(PipelineError) as caught, image_errors(source):
        raise error
    assert (type(caught.value), caught.value.code) == (kind, code)


@pytest.mark.parametrize("error", [Image.DecompressionBombError, Image.DecompressionBombWarning])
def test_pillows_own_limit_is_reported_as_ours(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Image.Image:
        raise error

    monkeypatch.setattr(openers, "_pillow", refuse)
    assert refused(PICTURES["PNG"]) == "too_large"


def test_conversion_in_bands_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a palette of 64 rows that is converted five rows at a time
    data = encoded(corners().quantize(), "PNG")
    whole = rendered(data, "64x64").tobytes()
    for band in (1, 64 * 5, 64 * 64):
        monkeypatch.setattr(decoding, "_BAND", band)
        assert rendered(data, "64x64").tobytes() == whole


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
