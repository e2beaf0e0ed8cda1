"""The parts of a file: which are kept, byte for byte, and which metadata is read from them."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from pipeline.images.containers.jpeg import read_jpeg
from pipeline.images.containers.model import File
from pipeline.images.containers.png import has_all_rows, read_png
from pipeline.images.containers.tiff import read_tiff
from tests.support.pictures import big_jpeg, corners, encoded, exif, linear_profile, png_chunk, png_header

PNG = encoded(corners(), "PNG")
JPEG = encoded(corners(), "JPEG", quality=95)


class TestPng:
    def test_one_without_metadata_is_unchanged(self) -> None:
        found = read_png(File(PNG))
        assert (found.picture, found.size, found.place) == (PNG, (64, 64), (0, 0))
        assert (found.exif, found.profile, found.colours) == (b"", None, {})

    def test_a_truncated_one_keeps_its_remaining_chunks(self) -> None:
        assert read_png(File(PNG[:-20])).picture == PNG[:-20]
        assert read_png(File(PNG + b"more")).picture == PNG + b"more"

    def test_texts_are_dropped_and_colour_chunks_are_read(self) -> None:
        # Given chunks of all kinds between header and pixels
        profile = linear_profile()
        colours = {b"sRGB": b"\0", b"gAMA": struct.pack(">I", 45455), b"cHRM": bytes(32), b"cICP": b"\1\2\0\1"}
        more = {b"eXIf": b"MM", b"iCCP": b"name\0\0" + zlib.compress(profile), b"tEXt": b"a\0b", b"tIME": bytes(7)}
        chunks = b"".join(png_chunk(name, data) for name, data in (colours | more).items())
        # When it is read, then the picture has none of them, and each is found.
        found = read_png(File(PNG[:33] + chunks + PNG[33:]))
        assert found.picture == PNG
        assert (found.colours, found.exif, found.profile) == (colours, b"MM", profile)

    def test_the_first_of_two_chunks_counts(self) -> None:
        twice = png_chunk(b"gAMA", b"\0\0\0\1") + png_chunk(b"gAMA", b"\0\0\0\2")
        assert read_png(File(PNG[:33] + twice + PNG[33:])).colours == {b"gAMA": b"\0\0\0\1"}

    @pytest.mark.parametrize("data", [b"name", b"name\0\0rubbish", b"name\0\0" + zlib.compress(b"x" * 99)[:-6], b""])
    def test_a_broken_profile_is_ignored(self, data: bytes) -> None:
        assert read_png(File(PNG[:33] + png_chunk(b"iCCP", data) + PNG[33:])).profile is None

    @pytest.mark.parametrize(
        ("bits", "kind", "before", "after"),
        [
            (8, 2, (1, 2, 3), (1, 2, 3)),
            (16, 2, (0x1234, 0xFFFF, 0), (0x12, 0xFF, 0)),
            (16, 0, (0x1234,), (0x1234,)),
            (4, 0, (7,), (119,)),
            (2, 0, (2,), (170,)),
            (1, 0, (1,), (1,)),
            (8, 0, (200,), (200,)),
        ],
    )
    def test_a_transparent_colour_is_scaled_as_pixels_are(
        self, bits: int, kind: int, before: tuple[int, ...], after: tuple[int, ...]
    ) -> None:
        data = png_header(4, 4, png_chunk(b"tRNS", struct.pack(f">{len(before)}H", *before)), bits=bits, colours=kind)
        expected = png_chunk(b"tRNS", struct.pack(f">{len(after)}H", *after))
        assert expected in read_png(File(data)).picture

    def test_a_palettes_transparency_is_bytes(self) -> None:
        chunk = png_chunk(b"tRNS", bytes([0, 128, 255]))
        assert chunk in read_png(File(png_header(4, 4, png_chunk(b"PLTE", bytes(9)), chunk, colours=3))).picture

    @pytest.mark.parametrize(
        ("width", "bits", "kind", "row"),
        [(3, 8, 2, 9), (3, 8, 6, 12), (3, 16, 0, 6), (3, 8, 4, 6), (9, 1, 0, 2), (3, 4, 3, 2), (8, 1, 3, 1)],
    )
    def test_a_row_is_as_long_as_its_pixels_and_one_byte(self, width: int, bits: int, kind: int, row: int) -> None:
        for missing in (0, 1):
            data = bytes(5 * (1 + row) - missing)
            assert has_all_rows(png_header(width, 5, bits=bits, colours=kind, data=data)) is not bool(missing)


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


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("is_big", [False, True])
def test_a_tiffs_tags_may_hold_numbers_up_to_the_limit(order: str, is_big: bool) -> None:
    def tiff(values: int, kind: int = 3, before: int = 0) -> bytes:
        entries = [(256, 3, 1), (257, 3, 1)] + [(254, 3, 1)] * before + [(273, kind, values)]
        sign = {"<": b"II", ">": b"MM"}[order]
        if is_big:
            head = sign + struct.pack(f"{order}HHHQQ", 43, 8, 0, 16, len(entries))
            return head + b"".join(struct.pack(f"{order}HHQH6x", *entry, 1) for entry in entries)
        head = sign + struct.pack(f"{order}HIH", 42, 8, len(entries))
        return head + b"".join(struct.pack(f"{order}HHIH2x", *entry, 1) for entry in entries)

    read_tiff(File(tiff(262_144)))
    read_tiff(File(tiff(262_145, kind=2)))
    for before in (0, 3):
        with pytest.raises(ValueError, match="tag 273 has 262145 numbers"):
            read_tiff(File(tiff(262_145, before=before)))
