"""The cost of decoding a JPEG is known from its header, and refused before a pixel is decoded."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from pipeline.errors import PermanentError
from pipeline.images.containers import jpeg
from pipeline.images.containers.jpeg import read_jpeg
from pipeline.images.containers.model import File
from pipeline.images.identify import identify
from pipeline.images.opening import open_image
from pipeline.images.render import render
from tests.support.pictures import (
    BLUE,
    GREEN,
    RED,
    YELLOW,
    assert_quarters,
    big_jpeg,
    corners,
    encoded,
    exif,
    linear_profile,
    recipe,
    rendered,
)


@pytest.mark.parametrize("is_progressive", [False, True])
def test_the_memory_for_a_progressive_jpeg_is_known_from_its_header(is_progressive: bool) -> None:
    # Given 178 megapixels without subsampling: six bytes of coefficients each, if all must be held
    data = bytearray(big_jpeg(13_340, 13_340, is_progressive=is_progressive))
    factors = data.index(b"\xff\xc2" if is_progressive else b"\xff\xc0") + 11
    data[factors] = 0x11
    limits = {"max_pixels": 178_000_000, "max_decoded_pixels": 50_000_000}
    # Then it is refused at once; as a sequential JPEG it only turns out to be incomplete
    with pytest.raises(PermanentError) as caught:
        render(bytes(data[: factors + 1000]), recipe("50x50"), **limits)
    assert caught.value.code == ("too_large" if is_progressive else "broken_image")
    if is_progressive:
        assert "1079 MB" in caught.value.message


def test_a_jpeg_with_one_scan_per_colour_is_held_whole_too() -> None:
    # Given a sequential JPEG whose first scan has one of three colours
    data = big_jpeg(13_340, 13_340)
    scan = data.index(b"\xff\xda")
    alone = data[:scan] + b"\xff\xda" + struct.pack(">HB", 8, 1) + data[scan + 5 : scan + 7] + b"\0\x3f\0"
    opened = open_image(alone, 178_000_000)
    # Then it needs 1.5 coefficients per pixel, of two bytes, in whole blocks
    assert opened.coefficients == 834 * 834 * 6 * 128
    assert open_image(data, 178_000_000).coefficients == 0


def test_a_jpeg_with_endless_passes_is_refused() -> None:
    data = encoded(corners(), "JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")
    with pytest.raises(PermanentError, match="200 are accepted") as caught:
        identify(data[:scan] + data[scan:-2] * 300, max_pixels=4096)
    assert caught.value.code == "too_large"


def test_a_large_jpeg_may_have_fewer_passes() -> None:
    # Given 178 megapixels in twice as many passes as an encoder writes
    data = big_jpeg(13_340, 13_340, is_progressive=True)
    scan = data.rindex(b"\xff\xda")
    passes = 20 - data.count(b"\xff\xda")
    # Then they are refused at once, but half as many are accepted.
    with pytest.raises(PermanentError, match="20 passes over 13340 x 13340 pixels") as caught:
        open_image(data[:scan] + data[scan:-2] * (passes + 1), 178_000_000)
    assert caught.value.code == "too_large"
    assert open_image(data[:scan] + data[scan:-2] * (passes - 9), 178_000_000).image.width == 13_340


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"\xff\xc9\0\x11\x08", "arithmetic coding"),
        (b"\xff\xc3\0\x11\x08", "lossless coding"),
        (b"\xff\xc5\0\x11\x08", "hierarchical coding"),
        (b"\xff\xf7\0\x11\x08", "JPEG-LS coding"),
        (b"\xff\xc1\0\x11\x0c", "samples of 12 bits"),
    ],
)
def test_a_jpeg_that_no_browser_shows_is_unsupported(frame: bytes, reason: str) -> None:
    data = encoded(corners(), "JPEG").replace(b"\xff\xc0\0\x11\x08", frame, 1)
    with pytest.raises(PermanentError, match=reason) as caught:
        identify(data, max_pixels=4096)
    assert caught.value.code == "unsupported_format"


@pytest.mark.parametrize("marker", [0xE0, 0xEE])
@pytest.mark.parametrize("content", [b"", b"JFIF\0", b"JFIF\0\1", b"Adobe", b"Adobe\0d"])
def test_an_empty_segment_about_colours_is_ignored(marker: int, content: bytes) -> None:
    # Given a JPEG whose JFIF or Adobe segment ends after its name
    data = encoded(corners(), "JPEG")
    (length,) = struct.unpack_from(">H", data, 4)
    segment = bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content
    # When it is rendered, then the colours are right.
    assert_quarters(rendered(data[:2] + segment + data[4 + length :]), RED, GREEN, BLUE, YELLOW)


def test_fill_bytes_are_skipped() -> None:
    data = encoded(corners(), "JPEG")
    filled = data[:2] + b"\xff" * 1_000_000 + b"\x00\xff\x01" + data[2:]
    assert read_jpeg(File(filled)) == read_jpeg(File(data))


JPEG = encoded(corners(), "JPEG", quality=95)


class TestJpeg:
    def test_one_without_metadata_is_unchanged(self) -> None:
        found = read_jpeg(File(JPEG))
        assert found.picture == JPEG
        assert (found.exif, found.profile, found.coefficients, found.scans) == (b"", None, 0, 1)
        assert not found.unusual

    def test_metadata_is_removed_and_found(self) -> None:
        # Given an orientation, a comment, and a profile in pieces that are out of order
        profile = linear_profile()
        halves = [b"ICC_PROFILE\0" + bytes([n, 2]) + part for n, part in ((2, profile[99:]), (1, profile[:99]))]
        block = exif(6).tobytes()
        segments = [(0xE1, block), (0xFE, b"comment"), *((0xE2, half) for half in halves), (0xE1, b"http://ns")]
        more = b"".join(bytes([0xFF, kind]) + struct.pack(">H", 2 + len(data)) + data for kind, data in segments)
        # When it is read, then the picture has no metadata.
        found = read_jpeg(File(JPEG[:2] + more + JPEG[2:]))
        assert (found.picture, found.exif, found.profile) == (JPEG, block, profile)

    @pytest.mark.parametrize(
        ("subsampling", "blocks"),
        [("4:4:4", 3 * 9 * 6), ("4:2:0", 6 * 5 * 3), ("4:2:2", 4 * 5 * 6)],
    )
    def test_coefficients_are_counted_in_whole_blocks(self, subsampling: str, blocks: int) -> None:
        # Given a progressive picture of 65 x 48
        data = encoded(Image.new("RGB", (65, 48)), "JPEG", progressive=True, subsampling=subsampling)
        assert read_jpeg(File(data)).coefficients == blocks * 64 * 2
        assert read_jpeg(File(data)).scans == data.count(b"\xff\xda")

    def test_a_picture_of_a_single_pass_needs_none(self) -> None:
        assert read_jpeg(File(big_jpeg(6000, 6000))).coefficients == 0
        assert read_jpeg(File(big_jpeg(6000, 6000, is_progressive=True))).coefficients == 375 * 375 * 6 * 64 * 2

    def test_a_file_that_ends_before_its_picture_is_refused(self) -> None:
        with pytest.raises(ValueError, match="ends before"):
            read_jpeg(File(JPEG[: JPEG.index(b"\xff\xda")]))


PLENTY = 1_000_000


PROGRESSIVE = encoded(corners(50, 40), "JPEG", progressive=True)


def refused(source: bytes) -> str:
    with pytest.raises(PermanentError) as caught:
        open_image(source, PLENTY)
    return caught.value.code


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


@pytest.mark.parametrize("source", [encoded(corners(50, 40), "JPEG"), PROGRESSIVE], ids=["baseline", "progressive"])
def test_a_second_frame_header_is_refused(source: bytes) -> None:
    # Given a JPEG whose frame header stands in it twice, as a costly file repeats it thousands of times
    at = source.index(b"\xff\xc2" if source is PROGRESSIVE else b"\xff\xc0")
    frame = source[at : at + 2 + int.from_bytes(source[at + 2 : at + 4])]
    # When it is identified, then it is refused
    with pytest.raises(PermanentError) as caught:
        identify(source[:at] + frame + source[at:], max_pixels=PLENTY)
    assert caught.value.code == "broken_image"
