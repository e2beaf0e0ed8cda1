"""Our readers of headers agree with Pillow about good files, and use no native code."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import pytest
from PIL import Image, TiffImagePlugin

from pipeline.errors import PermanentError
from pipeline.images.containers.avif import read_avif
from pipeline.images.containers.gif import read_gif
from pipeline.images.containers.model import File
from pipeline.images.containers.png import read_png
from pipeline.images.containers.tiff import _has_alpha
from pipeline.images.containers.webp import read_webp
from pipeline.images.identify import identify, read
from pipeline.images.render import render
from tests.corpus import samples
from tests.support.pictures import corners, encoded, png_chunk, recipe

GOOD = {name: (data, output) for name, data, output in samples.good()}
PLENTY = 10**7


@pytest.fixture(autouse=True)
def pillow_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the limit that earlier tests of rendering gave Pillow, which is one for the whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


@pytest.mark.parametrize("name", GOOD)
def test_sizes_and_alpha_are_those_of_pillow(name: str) -> None:
    # Given a good file
    data, output = GOOD[name]
    # When our reader and Pillow look at it
    kind, container = read(data, PLENTY)
    image = Image.open(io.BytesIO(data))
    # Then they agree about what the stages use
    assert container.size in (image.size, image.size[::-1])
    assert identify(data, max_pixels=PLENTY).output.name == output
    if kind in ("AVIF", "BMP", "TIFF"):
        assert container.has_alpha == image.has_transparency_data


@pytest.mark.parametrize("key", TiffImagePlugin.OPEN_INFO, ids=str)
def test_the_alpha_of_a_tiff_is_that_of_pillow(key: tuple[object, ...]) -> None:
    mode, _ = TiffImagePlugin.OPEN_INFO[key]
    _, photometric, _, _, bits, extra = key
    tags = {262: (photometric,), 277: (len(bits),), **({338: extra} if extra else {})}
    assert _has_alpha(tags) == (mode in ("LA", "La", "PA", "RGBA"))


WITHOUT_LIBRARIES = """
import sys
from pathlib import Path
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("zlib", "_ctypes", "PIL._avif", "PIL._webp", "PIL._imagingcms", "numpy", "pic_scale"):
            raise ImportError(f"{name} would be native code")
sys.meta_path.insert(0, Refuse())
import PIL._imaging as core
from PIL import Image
from pipeline.images.identify import identify
for name in [name for name in dir(core) if name.endswith("_decoder") or name in ("new", "fill")]:
    setattr(core, name, None)
Image.open = None
for line in sys.stdin:
    print(identify(bytes.fromhex(line), max_pixels=10**7).output.name)
"""


def test_fetch_identifies_every_file_without_a_decoder() -> None:
    # Given a process in which no decoder of Pillow works
    files = "\n".join(data.hex() for data, _ in GOOD.values())
    program = WITHOUT_LIBRARIES.replace('"zlib", ', "")  # the header of a PNG is checked by it, not inflated
    done = subprocess.run([sys.executable, "-c", program], input=files, capture_output=True, text=True, check=True)
    # Then every good file is identified all the same
    assert done.stdout.split() == [output for _, output in GOOD.values()]


def gif(*blocks: bytes) -> bytes:
    data = encoded(corners().quantize(), "GIF")
    at = read_gif(File(data)).start
    return data[:at] + b"".join(blocks) + data[at:]


COMMENT = b"!\xfe" + (b"\xff" + b"c" * 255) * 9 + b"\0"
CLEAR = b"!\xf9\x04\x01\0\0\x03\0"


class TestGif:
    def test_comments_and_later_frames_are_dropped(self) -> None:
        plain = gif()
        assert read_gif(File(gif(COMMENT, b"!\xff\x0bNETSCAPE2.0\x03\1\0\0\0", COMMENT))).picture == plain
        assert render(gif(COMMENT), recipe("9x9"), max_pixels=PLENTY, max_decoded_pixels=PLENTY) == render(
            plain, recipe("9x9"), max_pixels=PLENTY, max_decoded_pixels=PLENTY
        )

    def test_the_transparent_colour_is_kept(self) -> None:
        assert CLEAR in read_gif(File(gif(CLEAR, COMMENT))).picture

    @pytest.mark.parametrize("end", [b"", b"!", b"!\xfe\xff", b";", b","])
    def test_one_without_a_picture_is_broken(self, end: bytes) -> None:
        with pytest.raises(PermanentError, match="broken_image"):
            identify(encoded(corners(), "GIF")[:13].replace(b"\x87", b"\x07") + end, max_pixels=PLENTY)


class TestPngColours:
    @pytest.mark.parametrize(("kind", "kept"), [(0, 2), (2, 6), (3, 256), (4, 0), (6, 0)])
    def test_transparency_is_cut_to_what_the_colours_need(self, kind: int, kept: int) -> None:
        head = struct.pack(">IIBBBBB", 1, 1, 8, kind, 0, 0, 0)
        chunks = ((b"IHDR", head), (b"PLTE", bytes(3000)), (b"tRNS", bytes(9000)), (b"IDAT", zlib.compress(bytes(9))))
        png = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
        picture = read_png(File(png)).picture
        assert len(picture) == len(png) - (3000 - 768) - (9000 - kept)


class TestWebP:
    def test_metadata_and_later_frames_are_dropped(self) -> None:
        # Given an animation with a profile and Exif
        frames = [corners(), corners().rotate(90), corners().rotate(180)]
        data = encoded(
            frames[0], "WEBP", save_all=True, append_images=frames[1:], exif=b"Exif\0\0rest", icc_profile=b"profile"
        )
        found = read_webp(File(data))
        # Then the picture has one frame and neither of them
        picture = Image.open(io.BytesIO(found.picture))
        assert (picture.n_frames, picture.info.get("exif"), picture.info.get("icc_profile")) == (1, None, None)
        assert (found.profile, found.exif[-4:]) == (b"profile", b"rest")
        assert picture.convert("RGB").tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()

    def test_a_still_one_is_unchanged(self) -> None:
        data = encoded(corners(), "WEBP")
        assert read_webp(File(data)).picture == data


SAMPLING, NO_SAMPLING = b"\1\x22\0\2\x11\1\3\x11\1", b"\1\0\0\2\0\1\3\0\1"
FINDINGS = {
    "JPEG without sampling factors": encoded(corners(), "JPEG").replace(SAMPLING, NO_SAMPLING),
    "BigTIFF with an offset of 64 bits": struct.pack("<2sHHHQ", b"II", 43, 8, 0, 2**63),
    "PNG without bits": encoded(corners(), "PNG").replace(b"\x08\x02", b"\0\2", 1),
    "TIFF without a size": struct.pack("<2sHIHI", b"II", 42, 8, 0, 0),
}


@pytest.mark.parametrize("source", FINDINGS.values(), ids=FINDINGS)
def test_findings_of_the_fuzzer_end_in_an_expected_error(source: bytes) -> None:
    with pytest.raises((ValueError, IndexError, struct.error)):
        read(source, PLENTY)


CUT: dict[str, Callable[[File], object]] = {"AVIF": read_avif, "GIF": read_gif, "WEBP": read_webp}


@pytest.mark.parametrize("name", CUT)
def test_a_file_cut_anywhere_ends_in_an_expected_error(name: str) -> None:
    data = encoded(corners(), name)
    for length in range(12, len(data), 7):
        try:
            CUT[name](File(data[:length]))
        except (ValueError, IndexError, struct.error):
            continue
