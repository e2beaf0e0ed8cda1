"""GIF (version 89a): its first frame, without comments and extensions."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pipeline.images.containers.model import File, Size

_EXTENSION: Final = 0x21
_PICTURE: Final = 0x2C
_GRAPHIC_CONTROL: Final = 0xF9
#: Blocks that may follow the header: an extension, a picture, or the end. Pillow skips other bytes.
_BLOCK: Final = re.compile(rb"[!,;]")


class Gif(NamedTuple):
    """A GIF reduced to its first frame, and everything after that."""

    size: Size
    parts: tuple[bytes | memoryview, ...]  #: the header with the palette, the transparent colour, and the frames
    start: int  #: offset of the first frame
    has_alpha: bool

    @property
    def first_frame(self) -> bytes:
        """A GIF that begins with its first frame, because a decoder reads no further."""
        return b"".join(self.parts)


def has_second_frame(file: File) -> bool:
    """Return whether a GIF that `read_gif` accepts has another frame after its first.

    Raises:
        PermanentError: `too_large`.
    """
    at = read_gif(file).start
    flags = file.byte(at + 9) if len(file) > at + 9 else 0
    at += 11 + _palette_bytes(flags)  # after the first byte of the pixels, their code size
    while True:
        at = _after_blocks(file, at)
        found = file.find(_BLOCK, at)
        if found is None or (kind := file.byte(found)) != _EXTENSION:
            return found is not None and kind == _PICTURE
        at = found + 2


def _after_blocks(file: File, at: int) -> int:
    """Return the offset after the data blocks that begin at `at`, or that of the end of the file."""
    while at < len(file) and (length := file.byte(at)):
        at += length + 1
    return at + 1


def read_gif(file: File) -> Gif:
    """Parse a GIF.

    Raises:
        ValueError: the file has no picture.
        IndexError: the file ends before its picture.
        struct.error: the file ends before its picture.
        PermanentError: `too_large`.
    """
    width, height, flags = file.unpack("<HHB", 6)
    end = at = 13 + _palette_bytes(flags)
    transparent = b""
    while (found := file.find(_BLOCK, at)) is not None:
        at, kind = found, file.byte(found)
        if kind != _EXTENSION:
            break
        at += 2
        while length := file.byte(at):
            at += length + 1
        at += 1
        if file.byte(found + 1) == _GRAPHIC_CONTROL and file.byte(found + 3) & 1:
            transparent = file.copy(found, found + 7) + b"\0"
    if found is None or kind != _PICTURE:
        raise ValueError("the GIF has no picture")
    left, top, wide, high = file.unpack("<4H", at + 1)
    size = (max(width, left + wide), max(height, top + high))  # as Pillow enlarges the canvas
    has_alpha = bool(transparent) or (left, top, wide, high) != (0, 0, *size)
    return Gif(size, (file.copy(0, end), transparent, file.view(at)), at, has_alpha)


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
