"""AVIF sources: metadata and tracks are hidden from the decoder, and parts are counted for the whole file."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from pipeline.errors import PermanentError
from pipeline.images.colour import _PRIMARIES, rgb_profile
from pipeline.images.containers.avif import read_avif
from pipeline.images.containers.model import File
from pipeline.images.identify import identify
from pipeline.images.render import render
from tests.corpus import bombs
from tests.support.pictures import LIMITS, corners, encoded, png_chunk, recipe

AVIF = encoded(corners(), "AVIF", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")


def sequence(*colours: str) -> bytes:
    """Make a sequence of pictures, each in one colour."""
    first, *more = (Image.new("RGB", (64, 48), colour) for colour in colours)
    return encoded(first, "AVIF", save_all=True, append_images=more)


def test_metadata_gets_another_type() -> None:
    found = read_avif(File(AVIF))
    assert b"Exif" in AVIF
    assert found.first_frame == AVIF.replace(b"Exif", b"skip", 1)
    assert "exif" not in Image.open(io.BytesIO(found.first_frame)).info


def test_a_file_without_metadata_is_not_copied() -> None:
    data = encoded(corners(), "AVIF")
    assert read_avif(File(data)).first_frame is data


def test_bytes_after_the_boxes_are_ignored() -> None:
    assert read_avif(File(AVIF + b"\xff" * 99)).size == (64, 64)


class TestSequences:
    def test_the_decoder_gets_the_still_picture_alone(self) -> None:
        # Given a sequence, which Pillow alone would decode as one
        data = sequence("red", "lime", "blue")
        assert Image.open(io.BytesIO(data)).n_frames == 3  # type: ignore[attr-defined]
        # When it is read
        found = read_avif(File(data))
        # Then the decoder is given one frame, in a file that does not mention another
        assert found.size == (64, 48)
        assert Image.open(io.BytesIO(found.first_frame)).n_frames == 1  # type: ignore[attr-defined]
        assert b"moov" not in found.first_frame
        assert b"avis" not in found.first_frame
        # And the rendition shows it
        made = render(data, recipe("8x8"), **LIMITS)
        assert Image.open(io.BytesIO(made["8x8"])).convert("RGB").getpixel((4, 4)) == pytest.approx((254, 0, 0), abs=4)

    @pytest.mark.parametrize("major", [b"avif", b"mif1", b"avis"])
    def test_tracks_with_absurd_tables_are_never_read(self, major: bytes) -> None:
        # Given a sequence that declares billions of samples, under each major brand
        data = bytearray(sequence("red", "blue"))
        data[8:12] = major
        at = data.index(b"stsz")
        struct.pack_into(">II", data, at + 8, 1, 2**32 - 1)
        # Then its still picture is rendered
        assert identify(bytes(data), max_pixels=10_000).format == "AVIF"
        assert render(bytes(data), recipe("8x8"), **LIMITS)

    def test_one_without_a_still_picture_is_not_supported(self) -> None:
        data = sequence("red", "blue")
        with pytest.raises(PermanentError, match="sequences without a still picture") as caught:
            identify(data.replace(b"meta", b"free", 1), max_pixels=10_000)
        assert caught.value.code == "unsupported_format"


@pytest.mark.parametrize(
    "data",
    [
        bombs.avif(items=b"".join(bombs.full(b"infe", 2, struct.pack(">HH4sx", 2, 0, b"av01")) for _ in range(8_500))),
        bombs.avif(iloc=bombs.full(b"iloc", 0, struct.pack(">BBHHHH", 0, 0, 1, 1, 0, 33_000))),
        bombs.avif(iloc=bombs.full(b"iloc", 0, struct.pack(">BBH", 0, 0, 40_000), bytes(6 * 40_000))),
        bombs.avif(properties=bombs.box(b"free") * 20_000),
        bombs.avif_associations(100_000),
        bombs.avif(more=bombs.full(b"iref", 0, bombs.box(b"thmb", struct.pack(">HH", 1, 33_000)))),
        bombs.avif(more=bombs.full(b"iref", 0, *[bombs.box(b"thmb", struct.pack(">HHH", 1, 1, 1))] * 9_000)),
        bombs.FTYP + bombs.box(b"free") * 20_000,
    ],
    ids=["items", "extents", "locations", "properties", "associations", "references", "links", "boxes"],
)
def test_all_that_libavif_allocates_for_is_counted(data: bytes) -> None:
    with pytest.raises(PermanentError, match="too many parts; 32768 are accepted") as caught:
        identify(data, max_pixels=10_000)
    assert caught.value.code == "too_large"


def test_a_long_list_of_brands_is_refused_before_it_is_read() -> None:
    # Given a file of a megabyte that consists of brands
    data = bombs.box(b"ftyp", b"avif\0\0\0\0" + b"avis" * 250_000) + bombs.box(b"meta", bytes(12))
    # When it is identified, then its length alone refuses it
    with pytest.raises(PermanentError, match="512 are accepted") as caught:
        identify(data, max_pixels=10_000)
    assert caught.value.code == "too_large"


def test_a_grid_of_many_tiles_is_accepted() -> None:
    # Given the header of a grid of 1,000 tiles, each with four properties, and as many references
    tiles = range(2, 1_002)
    items = b"".join(bombs.full(b"infe", 2, struct.pack(">HH4sx", n, 0, b"av01")) for n in tiles)
    entries = b"".join(struct.pack(">HB4B", n, 4, 1, 1, 1, 1) for n in (1, *tiles))
    places = b"".join(struct.pack(">HHHII", n, 0, 1, 8, 16) for n in (1, *tiles))
    data = bombs.avif(
        items=items,
        count=1_001,
        iloc=bombs.full(b"iloc", 0, struct.pack(">BBH", 0x44, 0, 1_001), places),
        ipma=bombs.full(b"ipma", 0, struct.pack(">I", 1_001), entries),
        more=bombs.full(b"iref", 0, bombs.box(b"dimg", struct.pack(">HH1000H", 1, 1_000, *tiles))),
    )
    assert identify(data, max_pixels=10_000).format == "AVIF"


class TestColours:
    #: The same picture in the numbers of Display P3, whose sRGB is (215, 93, 31).
    P3 = Image.new("RGB", (64, 64), (200, 100, 50))

    @staticmethod
    def with_coding_points(data: bytes, primaries: int, curve: int) -> bytes:
        """Change the box nclx, which Pillow writes too."""
        at = data.index(b"nclx") + 4
        return data[:at] + struct.pack(">HH", primaries, curve) + data[at + 4 :]

    @staticmethod
    def colour(source: bytes) -> tuple[int, ...]:
        made = render(source, recipe("8x8.png"), **LIMITS)["8x8.png"]
        pixel = Image.open(io.BytesIO(made)).convert("RGB").getpixel((4, 4))
        assert isinstance(pixel, tuple)
        return pixel

    def test_display_p3_looks_the_same_in_an_avif_and_a_png(self) -> None:
        # Given the same picture in Display P3, as an AVIF and as a PNG
        avif = self.with_coding_points(encoded(self.P3, "AVIF", quality=100, subsampling="4:4:4"), 12, 13)
        png = encoded(self.P3, "PNG")
        png = png[:33] + png_chunk(b"cICP", bytes([12, 13, 0, 1])) + png[33:]
        # When both are rendered, then their colours are nearly the same, and are converted.
        assert self.colour(png) == pytest.approx((215, 93, 31), abs=2)
        assert self.colour(avif) == pytest.approx(self.colour(png), abs=3)

    @pytest.mark.parametrize(("primaries", "curve"), [(1, 13), (1, 1), (2, 2), (9, 16)])
    def test_srgb_and_unspecified_or_unsupported_colours_are_left_alone(self, primaries: int, curve: int) -> None:
        data = self.with_coding_points(encoded(self.P3, "AVIF", quality=100, subsampling="4:4:4"), primaries, curve)
        assert self.colour(data) == pytest.approx((200, 100, 50), abs=3)

    def test_an_embedded_profile_counts_more(self) -> None:
        # Given an AVIF with a profile of Display P3 whose box nclx names other primaries
        profile = rgb_profile(_PRIMARIES[12], None)
        data = encoded(self.P3, "AVIF", quality=100, subsampling="4:4:4", icc_profile=profile)
        # Then the profile is applied
        assert self.colour(self.with_coding_points(data, 9, 8)) == pytest.approx((215, 93, 31), abs=3)
