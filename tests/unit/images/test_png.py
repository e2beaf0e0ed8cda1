"""PNG: the parts that are kept, and the chunks about colours."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from pipeline.errors import PermanentError
from pipeline.images.containers.model import File
from pipeline.images.containers.png import has_all_rows, read_png
from pipeline.images.identify import identify
from pipeline.images.render import render
from tests.support.pictures import (
    LIMITS,
    corners,
    encoded,
    linear_profile,
    png_chunk,
    png_header,
    recipe,
)

PNG = encoded(corners(), "PNG")


class TestPng:
    def test_one_without_metadata_is_unchanged(self) -> None:
        found = read_png(File(PNG))
        assert (found.first_frame, found.size, found.place) == (PNG, (64, 64), (0, 0))
        assert (found.exif, found.profile, found.colours) == (b"", None, {})

    def test_a_truncated_one_keeps_its_remaining_chunks(self) -> None:
        assert read_png(File(PNG[:-20])).first_frame == PNG[:-20]
        assert read_png(File(PNG + b"more")).first_frame == PNG + b"more"

    def test_texts_are_dropped_and_colour_chunks_are_read(self) -> None:
        # Given chunks of all kinds between header and pixels
        profile = linear_profile()
        colours = {b"sRGB": b"\0", b"gAMA": struct.pack(">I", 45455), b"cHRM": bytes(32), b"cICP": b"\1\2\0\1"}
        more = {b"eXIf": b"MM", b"iCCP": b"name\0\0" + zlib.compress(profile), b"tEXt": b"a\0b", b"tIME": bytes(7)}
        chunks = b"".join(png_chunk(name, data) for name, data in (colours | more).items())
        # When it is read, then the picture has none of them, and each is found.
        found = read_png(File(PNG[:33] + chunks + PNG[33:]))
        assert found.first_frame == PNG
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
        assert expected in read_png(File(data)).first_frame

    def test_a_palettes_transparency_is_bytes(self) -> None:
        chunk = png_chunk(b"tRNS", bytes([0, 128, 255]))
        assert chunk in read_png(File(png_header(4, 4, png_chunk(b"PLTE", bytes(9)), chunk, colours=3))).first_frame

    @pytest.mark.parametrize(
        ("width", "bits", "kind", "row"),
        [(3, 8, 2, 9), (3, 8, 6, 12), (3, 16, 0, 6), (3, 8, 4, 6), (9, 1, 0, 2), (3, 4, 3, 2), (8, 1, 3, 1)],
    )
    def test_a_row_is_as_long_as_its_pixels_and_one_byte(self, width: int, bits: int, kind: int, row: int) -> None:
        for missing in (0, 1):
            data = bytes(5 * (1 + row) - missing)
            assert has_all_rows(png_header(width, 5, bits=bits, colours=kind, data=data)) is not bool(missing)


class TestPngColours:
    @pytest.mark.parametrize(("kind", "kept"), [(0, 2), (2, 6), (3, 256), (4, 0), (6, 0)])
    def test_transparency_is_cut_to_what_the_colours_need(self, kind: int, kept: int) -> None:
        head = struct.pack(">IIBBBBB", 1, 1, 8, kind, 0, 0, 0)
        chunks = ((b"IHDR", head), (b"PLTE", bytes(3000)), (b"tRNS", bytes(9000)), (b"IDAT", zlib.compress(bytes(9))))
        png = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
        picture = read_png(File(png)).first_frame
        assert len(picture) == len(png) - (3000 - 768) - (9000 - kept)


def test_a_png_that_does_not_begin_with_its_header_is_broken() -> None:
    data = encoded(corners(), "PNG")
    text = struct.pack(">I", 13) + b"tEXt" + bytes(13) + struct.pack(">I", zlib.crc32(b"tEXt" + bytes(13)))
    with pytest.raises(PermanentError) as caught:
        identify(data[:8] + text + data[8:], max_pixels=4096)
    assert caught.value.code == "broken_image"


@pytest.mark.parametrize("size", [0, 3, 5])
def test_a_cicp_chunk_of_another_length_is_ignored(size: int) -> None:
    data = encoded(corners(), "PNG")
    chunk = struct.pack(">I", size) + b"cICP" + bytes(size) + struct.pack(">I", zlib.crc32(b"cICP" + bytes(size)))
    assert render(data[:33] + chunk + data[33:], recipe("5x5"), **LIMITS)


#: Bytes of a row of 24 pixels without its filter byte, by Pillow's mode.
ROWS = {"1": 3, "L": 24, "P": 24, "LA": 48, "RGB": 72, "RGBA": 96, "I;16": 48}


@pytest.mark.parametrize("mode", ROWS)
@pytest.mark.parametrize("rows", [0, 1, 15])
def test_a_png_with_too_few_rows_is_broken(mode: str, rows: int) -> None:
    # Given a PNG of 24 x 16 pixels whose stream ends properly but too soon
    image = Image.new(mode, (24, 16))
    if mode == "P":
        image.putpalette(bytes(768))  # Pillow writes fewer bits for a smaller one.
    whole = encoded(image, "PNG")
    stream = zlib.compress(bytes(1 + ROWS[mode]) * rows)
    chunk = struct.pack(">I", len(stream)) + b"IDAT" + stream + struct.pack(">I", zlib.crc32(b"IDAT" + stream))
    cut = whole[: whole.index(b"IDAT") - 4] + chunk + whole[-12:]
    # Then the complete one is rendered, and this one is not.
    assert render(whole, recipe("5x5"), **LIMITS)
    with pytest.raises(PermanentError) as caught:
        render(cut, recipe("5x5"), **LIMITS)
    assert caught.value.code == "broken_image"


#: The pass of each pixel of an interlaced PNG, repeated over the picture (PNG, third edition, section 8.2).
PASSES = ("16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777")


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 5), (24, 16), (9, 7)])
@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (6, 4)])
def test_an_interlaced_png_has_all_the_rows_of_its_passes(size: tuple[int, int], kind: int, channels: int) -> None:
    # Given an interlaced PNG: each row of a pass has a filter byte and the pass's pixels
    width, height = size
    rows = [[PASSES[y % 8][x % 8] for x in range(width)].count(each) for each in "1234567" for y in range(height)]
    raw = b"".join(bytes(1 + columns * channels) for columns in rows if columns)
    whole, cut = (interlaced(size, kind, zlib.compress(data)) for data in (raw, raw[:-1]))
    # Then not a single byte may be missing.
    assert (has_all_rows(whole), has_all_rows(cut)) == (True, False)


def interlaced(size: tuple[int, int], kind: int, stream: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", *size, 8, kind, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
