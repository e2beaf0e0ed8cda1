"""The orientation in an Exif block."""

from __future__ import annotations

import struct

import pytest

from pipeline.images.containers.exif import orientation as orientation_in


def directory(order: str, *entries: tuple[int, int, int], count: int | None = None) -> bytes:
    """Build an Exif block in a byte order from tags, types and values."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(entries) if count is None else count)
    return head + b"".join(struct.pack(f"{order}HHIHH", tag, kind, 1, value, 0) for tag, kind, value in entries)


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("order", "<>")
def test_an_orientation_is_found_in_either_byte_order(order: str, prefix: bytes) -> None:
    for value in range(1, 9):
        assert orientation_in(prefix + directory(order, (0x0112, 3, value))) == value
    assert orientation_in(prefix + directory(order, (0x010F, 3, 5), (0x0112, 3, 6), (0x0112, 3, 7))) == 6


@pytest.mark.parametrize(
    "block",
    [
        directory("<", (0x0112, 3, 0)),
        directory("<", (0x0112, 3, 9)),
        directory("<", (0x0112, 4, 6)),
        directory("<", (0x0113, 3, 6)),
        directory("<", (0x0112, 3, 6), count=0),
        directory("<", count=1),
        b"XX" + directory("<", (0x0112, 3, 6))[2:],
        b"",
    ],
)
def test_a_source_without_orientation_is_upright(block: bytes) -> None:
    assert orientation_in(block) == 1
