"""GIF (version 89a): its first picture, without comments and extensions."""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from pipeline.images.containers.model import Size, check_count

_EXTENSION: Final = 0x21
_GRAPHIC_CONTROL: Final = 0xF9
#: Blocks that may follow the header: an extension, a picture, or the end. Pillow skips other bytes.
_BLOCK: Final = re.compile(rb"[!,;]")
#: Maximum parts before the picture. A comment of 50 MB has 200,000, of 255 bytes each.
_MAX_PARTS: Final = 1_000_000


class Gif(NamedTuple):
    """A GIF reduced to its first picture, of which `picture` keeps everything to the end of the file."""

    source: bytes
    size: Size
    head: bytes  #: the header with the palette, and the transparent colour
    start: int  #: offset of the picture
    has_alpha: bool = True

    @property
    def picture(self) -> bytes:
        """A GIF that begins with the picture."""
        return self.head + self.source[self.start :]


def has_second_picture(source: bytes) -> bool:
    """Return whether a GIF that `read_gif` accepts has another picture after its first."""
    at = read_gif(source).start
    flags = source[at + 9] if len(source) > at + 9 else 0
    at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # after the first byte of the pixels, their code size
    for _ in range(_MAX_PARTS):
        at = _after_blocks(source, at)
        found = _BLOCK.search(source, at)
        if not found or source[found.start()] != _EXTENSION:
            return found is not None and source[found.start()] == ord(",")
        at = found.start() + 2
    return False


def _after_blocks(source: bytes, at: int) -> int:
    """Return the offset after the data blocks that begin at `at`, or that of the end of the file."""
    while at < len(source) and source[at]:
        at += source[at] + 1
    return at + 1


def read_gif(source: bytes) -> Gif:
    """Parse a GIF.

    Raises:
        ValueError: the file has no picture.
        IndexError: the file ends before its picture.
        struct.error: the file ends before its picture.
        PermanentError: `too_large`.
    """
    width, height, flags = struct.unpack_from("<HHB", source, 6)
    end = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    transparent, parts, at = b"", 0, end
    while found := _BLOCK.search(source, at):
        at = found.start()
        if source[at] != _EXTENSION:
            break
        start, at, parts = at, at + 2, parts + 1
        while length := source[at]:
            at += length + 1
            parts += 1
        check_count(parts, _MAX_PARTS, "parts before its picture")
        at += 1
        if source[start + 1] == _GRAPHIC_CONTROL and source[start + 3] & 1:
            transparent = source[start : start + 7] + b"\0"
    if not found or source[at] != ord(","):
        raise ValueError("the GIF has no picture")
    left, top, wide, high = struct.unpack_from("<4H", source, at + 1)
    size = (max(width, left + wide), max(height, top + high))  # as Pillow enlarges the canvas
    return Gif(source, size, source[:end] + transparent, at)
