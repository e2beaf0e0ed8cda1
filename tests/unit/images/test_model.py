"""Reading the header of a file costs no more than its budget, whatever the format and wherever the parts lie."""

from __future__ import annotations

import re
import struct
import time
import tracemalloc

import pytest

from pipeline.errors import PermanentError
from pipeline.images.containers.model import MAX_PARTS, File
from pipeline.images.identify import READERS, identify
from pipeline.images.render import render
from tests.corpus import bombs
from tests.support.pictures import LIMITS, corners, encoded, recipe

#: Bytes of the largest source that is accepted by default.
LARGEST = 52_000_000


@pytest.mark.parametrize("name", READERS)
def test_every_reader_spends_the_budget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a good file of each format, and a budget that is too small for any
    data = encoded(corners(), name)
    assert identify(data, max_pixels=4096)
    monkeypatch.setattr("pipeline.images.containers.model.MAX_PARTS", 1)
    # When fetch reads it, then it is refused for good.
    with pytest.raises(PermanentError, match="too many parts") as caught:
        identify(data, max_pixels=4096)
    assert caught.value.code == "too_large"


#: Files of which each part lies where a count for each box, segment or chunk alone would not see the others.
SCATTERED = {
    "PNG": bombs.png_pieces,
    "JPEG": bombs.BOMBS["JPEG: segments"],
    "GIF": bombs.BOMBS["GIF: comment of tiny parts"],
    "WEBP": bombs.BOMBS["WebP: chunks"],
    "ICO": bombs.BOMBS["ICO: chunks"],
    "AVIF: items": bombs.avif_unused_items,
    "AVIF: tables of items": bombs.avif_tables,
    "AVIF: properties": bombs.avif_containers,
    "AVIF: alpha": bombs.avif_alpha,
}


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", SCATTERED)
def test_a_file_of_scattered_parts_is_refused_at_once(name: str) -> None:
    # Given a file of the largest size that consists of parts
    source = SCATTERED[name](LARGEST)
    # When fetch reads it
    began = time.process_time()
    with pytest.raises(PermanentError) as caught:
        identify(source, max_pixels=178_000_000)
    # Then it ends for good, within a second of CPU
    assert caught.value.code == "too_large"
    assert time.process_time() - began < 1
    # And within 20 MB in addition to the file
    tracemalloc.start()
    with pytest.raises(PermanentError):
        identify(source, max_pixels=178_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_real_files_are_far_from_the_budget() -> None:
    # Given a PNG of 50 MB in chunks of 1 KiB, and a GIF with a comment of as many bytes
    png = bombs.png(*[bombs.chunk(b"tEXt", bytes(1012))] * 50_000)
    gif = bombs.BOMBS["GIF: comment"](50_000_000)
    # Then both are accepted
    assert identify(png, max_pixels=4096).format == "PNG"
    assert identify(gif, max_pixels=4096).format == "GIF"
    # And so is a sequence with many chunks of pixels
    assert render(bombs.png_frames_accepted(1_000_000), recipe("4x4"), **LIMITS)


class TestFile:
    def test_bytes_are_counted_however_often_they_are_read(self) -> None:
        file = File(bytes(1_000_000))
        for _ in range(4):
            file.copy(0, 1_000_000)
        with pytest.raises(PermanentError, match="the same bytes too often"):
            file.find(re.compile(b"x"), 0)

    def test_a_file_inside_another_has_the_same_budget(self) -> None:
        file = File(
            b"..abc",
        )
        inner = file.after(2)
        assert (len(inner), inner.copy(0, 2), inner.count(b"b", 0), inner.whole) == (3, b"ab", 1, b"abc")
        inner.spend(MAX_PARTS - 10)
        with pytest.raises(PermanentError):
            file.spend(10)

    def test_a_lower_limit_counts_what_was_spent(self) -> None:
        file = File(bytes(100))
        file.unpack("10B", 0)
        file.limit_parts(12)
        file.limit_parts(MAX_PARTS)  # which raises no budget
        file.unpack("2B", 0)
        with pytest.raises(PermanentError, match="12 are accepted"):
            file.byte(0)

    @pytest.mark.parametrize("at", [-1, 2**63])
    def test_an_offset_outside_of_the_file_is_an_expected_error(self, at: int) -> None:
        with pytest.raises(ValueError, match="not in the file"):
            File(bytes(9)).unpack("B", at)
        with pytest.raises(struct.error):
            File(bytes(9)).unpack("B", 9)
