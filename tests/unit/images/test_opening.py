"""Untrusted sources: text, oversized, broken or malicious files end in one of our errors."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import AvifImagePlugin, Image, ImageCms, ImageFile, PngImagePlugin

from pipeline.errors import PermanentError, RetryableError
from pipeline.images import codecs
from pipeline.images.identify import identify
from pipeline.images.render import render
from tests.support.pictures import (
    BLUE,
    GREEN,
    LIMITS,
    RED,
    YELLOW,
    assert_quarters,
    big_jpeg,
    corners,
    encoded,
    icon,
    png_chunk,
    png_header,
    recipe,
    tiled_tiff,
)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (b"", "not_an_image"),
        (b"\0" * 5000, "not_an_image"),
        (b"BMW is a make of cars, and this is a text", "not_an_image"),
        (b"<!doctype html><html><body>404</body></html>", "not_an_image"),
        (b'{"error": "not found"}', "not_an_image"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format"),
        (b"  <svg/>", "unsupported_format"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "unsupported_format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "unsupported_format"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_format"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "unsupported_format"),
        (b"8BPS\0\1" + b"\0" * 30, "unsupported_format"),
        (encoded(Image.new("RGB", (8, 8)), "PPM"), "not_an_image"),
        (encoded(Image.new("RGB", (8, 8)), "JPEG2000"), "unsupported_format"),
        (b"\xff\xd8\xff", "broken_image"),
        (b"\x89PNG\r\n\x1a\n", "broken_image"),
        (b"GIF89a", "broken_image"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "broken_image"),
        (b"\0\0\1\0\0\0", "broken_image"),
        (b"\0\0\1\0", "broken_image"),
        (b"II*\0\xff\xff\xff\xff", "broken_image"),
    ],
)
def test_sources_in_other_formats_are_refused(source: bytes, code: str) -> None:
    for attempt in (
        lambda: identify(source, max_pixels=1_000_000),
        lambda: render(source, recipe("50x50"), **LIMITS),
    ):
        with pytest.raises(PermanentError) as caught:
            attempt()
        assert caught.value.code == code
        assert caught.value.message.endswith(".")
        assert "BytesIO" not in caught.value.message


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO"])
def test_a_truncated_image_is_refused(name: str, share: float) -> None:
    whole = encoded(Image.effect_noise((200, 200), 60).convert("RGB"), name)
    assert render(whole, recipe("50x50"), **LIMITS)
    with pytest.raises(PermanentError) as caught:
        render(whole[: int(len(whole) * share)], recipe("50x50"), **LIMITS)
    assert caught.value.code == "broken_image"
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO"])
def test_the_limit_of_pixels_is_exact(name: str) -> None:
    data = encoded(corners(50, 40), name, **({"sizes": [(50, 40)]} if name == "ICO" else {}))
    # Given exactly the limit
    assert identify(data, max_pixels=2000)
    assert render(data, recipe("5x5"), max_pixels=2000, max_decoded_pixels=2000)
    # Then one pixel less is too low a limit
    for attempt in (
        lambda: identify(data, max_pixels=1999),
        lambda: render(data, recipe("5x5"), max_pixels=1999, max_decoded_pixels=2000),
    ):
        with pytest.raises(PermanentError) as caught:
            attempt()
        assert caught.value.code == "too_large"
        assert "1999" in caught.value.message


@pytest.mark.parametrize(
    "source",
    [
        png_header(60_000, 60_000),
        icon(png_header(20_000, 20_000, colours=6)),
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\1\0\0;",
        tiled_tiff(60_000),
        b"RIFF\x7a\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\xff\0\xff\xff\0VP8L" + b"\0" * 100,
    ],
    ids=["png", "icon", "gif", "tile of a tiff", "webp"],
)
def test_a_bomb_is_refused_by_its_header(source: bytes) -> None:
    with pytest.raises(PermanentError) as caught:
        identify(source, max_pixels=178_000_000)
    assert caught.value.code == "too_large"
    assert "178000000" in caught.value.message


def test_the_limit_of_decoded_pixels_applies_after_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a JPEG and a PNG of a million pixels, and room for a fifteenth of them
    source = corners(1000, 1000)
    limits = {"max_pixels": 1_000_000, "max_decoded_pixels": 65_000}
    # Then a JPEG serves small renditions, from 1/4 of its size
    assert_quarters(
        Image.open(io.BytesIO(render(encoded(source, "JPEG"), recipe("200x200"), **limits)["200x200"])),
        RED, GREEN, BLUE, YELLOW, tolerance=20,
    )  # fmt: skip
    # But no larger ones, and not a PNG: it is refused without decoding
    monkeypatch.setattr(codecs, "decode_png", None)
    for data, name in ((encoded(source, "JPEG"), "300x300"), (encoded(source, "PNG"), "200x200")):
        with pytest.raises(PermanentError) as caught:
            render(data, recipe(name), **limits)
        assert caught.value.code == "too_large"
        assert "65000" in caught.value.message


def deflated_zeros(size: int) -> bytes:
    """Compress this many zeros with zlib, from one repeated block of a million."""
    deflater = zlib.compressobj(wbits=-15)
    block = deflater.compress(bytes(1_000_000)) + deflater.flush(zlib.Z_FULL_FLUSH)
    rest = deflater.compress(bytes(size % 1_000_000)) + deflater.flush()
    # For zeros, Adler's lower half is 1 and its upper half is their number.
    return b"\x78\x9c" + block * (size // 1_000_000) + rest + struct.pack(">HH", size % 65_521, 1)


def test_a_text_bomb_is_skipped() -> None:
    # Given a gigabyte of zeros next to a PNG of one pixel
    zeros = deflated_zeros(1_000_000_000)
    bomb = png_header(1, 1, png_chunk(b"zTXt", b"a\0\0" + zeros), data=b"\0\0\0\0")
    # Then the picture is rendered, and the text was not read
    tracemalloc.start()
    try:
        assert render(bomb, recipe("5x5"), **LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_an_avif_is_decoded_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given Pillow's default, a thread for each core
    monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", 0)
    # When an AVIF is rendered
    render(encoded(corners(), "AVIF"), recipe("5x5"), **LIMITS)
    # Then its decoder got one thread
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 1


@pytest.mark.parametrize("where", ["decode_png", "resize", "encode_png"])
def test_too_little_memory_is_retried(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    data = encoded(corners(), "PNG")
    monkeypatch.setattr(codecs, where, fail)
    with pytest.raises(RetryableError) as caught:
        render(data, recipe("5x5"), **LIMITS)
    assert caught.value.code == "out_of_memory"


SAMPLES = [encoded(corners(24, 16), name) for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO")]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a good image with some of its bytes changed."""
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=8)):
        data[place] = value
    return bytes(data[: draw(st.integers(len(data) // 2, len(data)))])


@settings(deadline=None, max_examples=300, derandomize=True)
@given(source=st.one_of(st.binary(max_size=200), damaged()))
def test_any_bytes_end_in_one_of_our_errors(source: bytes) -> None:
    try:
        result = render(source, recipe("5x5", fit="contain"), **LIMITS)
    except (PermanentError, RetryableError):
        return
    assert Image.open(io.BytesIO(result["5x5"])).size == (5, 5)


# Limits of memory and time


@pytest.mark.parametrize("size", [(70_000, 1), (1, 70_000)])
def test_no_side_may_be_too_long(size: tuple[int, int]) -> None:
    with pytest.raises(PermanentError, match="65535 a side") as caught:
        identify(png_header(*size), max_pixels=100_000)
    assert caught.value.code == "too_large"


def test_big_metadata_is_accepted() -> None:
    # Given megabytes of text and profile, in all places where a format allows them
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(3_000_000)
    text = PngImagePlugin.PngInfo()
    text.add_text("history", "x" * 5_000_000, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "y" * 5_000_000, zip=True)
    png = encoded(corners(), "PNG", pnginfo=text, icc_profile=profile)
    jpeg = encoded(corners(), "JPEG", icc_profile=profile, comment=b"z" * 60_000)
    # Then the picture is rendered
    for data in (png, jpeg):
        assert len(render(data, recipe("40x40"), **LIMITS)) == 1


PROBE = """
import sys
from pipeline.recipe import Recipe
from pipeline.images.render import render
from pipeline.recipe import parse_rendition

recipe = Recipe(tuple(map(parse_rendition, ["50x50", "250x250", "800x800"])))
made = render(sys.stdin.buffer.read(), recipe, max_pixels=178_000_000, max_decoded_pixels=50_000_000)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def peak_memory(source: bytes) -> int:
    """Return the peak memory in bytes of a process that renders `source` in the usual sizes."""
    child = subprocess.run([sys.executable, "-c", PROBE], input=source, stdout=subprocess.PIPE, check=True)
    return int(child.stdout) * 1024


def flat_png(side: int, colours: int, channels: int) -> bytes:
    body = deflated_zeros(side * (1 + channels * side))
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux reports the peak memory")
@pytest.mark.parametrize(
    ("make", "megabytes"),
    [
        (lambda: big_jpeg(11_714, 11_714), 150),
        (lambda: big_jpeg(11_714, 11_714, is_progressive=True), 600),
        (lambda: flat_png(7_071, 6, 4), 600),
    ],
    ids=["a huge cover", "a huge progressive cover", "the largest PNG with alpha"],
)
def test_a_worker_stays_small(make: Callable[[], bytes], megabytes: int) -> None:
    assert peak_memory(make()) < megabytes * 1_000_000
