"""WebP: its first frame, without metadata."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from pipeline.images.containers.model import File
from pipeline.images.containers.webp import read_webp
from tests.support.pictures import corners, encoded


class TestWebP:
    def test_metadata_and_later_frames_are_dropped(self) -> None:
        # Given an animation with a profile and Exif
        frames = [corners(), corners().rotate(90), corners().rotate(180)]
        data = encoded(
            frames[0], "WEBP", save_all=True, append_images=frames[1:], exif=b"Exif\0\0rest", icc_profile=b"profile"
        )
        found = read_webp(File(data))
        # Then the picture has one frame and neither of them
        picture = Image.open(io.BytesIO(found.first_frame))
        assert (picture.n_frames, picture.info.get("exif"), picture.info.get("icc_profile")) == (1, None, None)
        assert (found.profile, found.exif[-4:]) == (b"profile", b"rest")
        assert picture.convert("RGB").tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()

    def test_a_still_one_is_unchanged(self) -> None:
        data = encoded(corners(), "WEBP")
        assert read_webp(File(data)).first_frame == data


@pytest.mark.parametrize("is_lossless", [False, True])
@pytest.mark.parametrize("metadata", [{}, {"exif": b"Exif\0\0rest"}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("frames", [1, 2])
def test_alpha_is_found_in_every_kind(is_lossless: bool, metadata: dict[str, bytes], mode: str, frames: int) -> None:
    picture = corners().convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize((64, 64)))
    more = {"save_all": True, "append_images": [picture.rotate(90)]} if frames > 1 else {}
    data = encoded(picture, "WEBP", lossless=is_lossless, **metadata, **more)
    assert read_webp(File(data)).has_alpha is (mode == "RGBA")


def test_alpha_counts_though_the_header_does_not_announce_it() -> None:
    # Given a lossy picture with a chunk of alpha, whose flag is not set
    picture = corners().convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((64, 64)))
    data = bytearray(encoded(picture, "WEBP"))
    assert data[12:16] == b"VP8X"
    data[20] &= ~0x10
    # Then it has alpha, as for its decoder
    assert Image.open(io.BytesIO(data)).mode == "RGBA"
    assert read_webp(File(bytes(data))).has_alpha
