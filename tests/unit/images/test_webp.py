"""WebP: its first frame, without metadata."""

from __future__ import annotations

import io

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
