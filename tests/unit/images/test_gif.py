"""GIF: its first frame, and the transparent colour."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from pipeline.errors import PermanentError
from pipeline.images.containers.gif import read_gif
from pipeline.images.containers.model import File
from pipeline.images.identify import identify
from pipeline.images.render import render
from tests.support.pictures import (
    RED,
    corners,
    encoded,
    is_near,
    recipe,
    rendered,
)

PLENTY = 10**7


def gif(*blocks: bytes) -> bytes:
    data = encoded(corners().quantize(), "GIF")
    at = read_gif(File(data)).start
    return data[:at] + b"".join(blocks) + data[at:]


COMMENT = b"!\xfe" + (b"\xff" + b"c" * 255) * 9 + b"\0"


CLEAR = b"!\xf9\x04\x01\0\0\x03\0"


class TestGif:
    def test_comments_and_later_frames_are_dropped(self) -> None:
        plain = gif()
        assert read_gif(File(gif(COMMENT, b"!\xff\x0bNETSCAPE2.0\x03\1\0\0\0", COMMENT))).first_frame == plain
        assert render(gif(COMMENT), recipe("9x9"), max_pixels=PLENTY, max_decoded_pixels=PLENTY) == render(
            plain, recipe("9x9"), max_pixels=PLENTY, max_decoded_pixels=PLENTY
        )

    def test_the_transparent_colour_is_kept(self) -> None:
        assert CLEAR in read_gif(File(gif(CLEAR, COMMENT))).first_frame

    @pytest.mark.parametrize("end", [b"", b"!", b"!\xfe\xff", b";", b","])
    def test_one_without_a_picture_is_broken(self, end: bytes) -> None:
        with pytest.raises(PermanentError, match="broken_image"):
            identify(encoded(corners(), "GIF")[:13].replace(b"\x87", b"\x07") + end, max_pixels=PLENTY)


def test_the_area_outside_a_gifs_first_frame_is_transparent() -> None:
    # Given a canvas of 64 x 64 with red in its lower right quarter
    data = bytearray(encoded(Image.new("P", (32, 32), 0), "GIF", palette=bytes([*RED] + [0] * 765)))
    data[6:10] = struct.pack("<HH", 64, 64)
    place = data.index(b",\0\0\0\0")
    data[place + 1 : place + 5] = struct.pack("<HH", 32, 32)
    # When it is rendered
    image = rendered(bytes(data)).convert("RGBA")
    # Then red is in the same place
    assert [image.getpixel(at)[3] for at in ((5, 5), (35, 5), (5, 35), (35, 35))] == [0, 0, 0, 255]
    assert is_near(image.getpixel((35, 35))[:3], RED)


def test_alpha_is_a_transparent_colour_or_a_part_of_the_canvas() -> None:
    assert not read_gif(File(gif())).has_alpha
    assert read_gif(File(gif(CLEAR))).has_alpha
    # Given a first frame that leaves the last row of its canvas empty
    data = gif()
    higher = data[:8] + struct.pack("<H", 65) + data[10:]
    assert read_gif(File(higher)).has_alpha


def test_transparency_of_a_later_frame_does_not_count() -> None:
    data = gif()
    later = data[:-1] + CLEAR + data[read_gif(File(data)).start :]
    assert not read_gif(File(later)).has_alpha
