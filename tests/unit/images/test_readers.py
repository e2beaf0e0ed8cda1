"""Our readers of headers agree with Pillow about good files, and use no native code."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest
from PIL import Image

from pipeline.images.containers.avif import read_avif
from pipeline.images.containers.gif import read_gif
from pipeline.images.containers.model import File
from pipeline.images.containers.webp import read_webp
from pipeline.images.identify import identify, read
from tests.corpus import samples
from tests.support.pictures import corners, encoded

GOOD = {name: (data, output) for name, data, output in samples.good()}
PLENTY = 10**7


@pytest.mark.parametrize("name", GOOD)
def test_sizes_and_alpha_are_those_of_pillow(name: str) -> None:
    # Given a good file
    data, output = GOOD[name]
    # When our reader and Pillow look at it
    _, container = read(data, PLENTY)
    image = Image.open(io.BytesIO(data))
    # Then they agree about what the stages use
    assert container.size in (image.size, image.size[::-1])
    assert identify(data, max_pixels=PLENTY).output.name == output
    assert container.has_alpha == image.has_transparency_data


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
