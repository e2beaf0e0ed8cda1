"""The first bytes of a file indicate its format."""

from __future__ import annotations

import pytest

from pipeline.images.signatures import format_of
from tests.support.pictures import (
    corners,
    encoded,
)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x20ftypheic", "HEIC"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0heic", "HEIC"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0avif", "AVIF"),
        (b"\0\0\0\x20ftypavis", "AVIF"),
        (b"<svg xmlns=", "SVG"),
        (b'\xef\xbb\xbf <?xml version="1.0"?>\n<svg', "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe", "PostScript"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"RIFF\0\0\0\0WEBP", "WEBP"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"<html>", None),
        (b" " * 1023 + b"<svg", None),
        (b"", None),
    ],
)
def test_a_source_is_recognized_by_its_first_kilobyte(head: bytes, name: str | None) -> None:
    assert format_of(head) == name


def test_an_avif_that_names_heic_too_is_an_avif() -> None:
    # Given an AVIF with one more brand in its list
    data = encoded(corners(), "AVIF")
    size = int.from_bytes(data[:4], "big")
    brands = b"mif1" + data[12:16] + b"heic" + data[16:size]
    lying = (len(brands) + 8).to_bytes(4, "big") + b"ftyp" + brands + data[size:]
    # Then it is recognized, and so decoded in a child process
    assert (format_of(data), format_of(lying)) == ("AVIF", "AVIF")
