"""WebP (RFC 9649): its first frame, without metadata."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from pipeline.images.containers.model import MAX_PROFILE_BYTES, File, Size

#: The flag of the chunk VP8X for alpha, and the bit in the header of the chunk VP8L.
_ALPHA: Final = 0x10
_LOSSLESS_ALPHA: Final = 1 << 28
#: Flags of the chunk VP8X for chunks that are dropped: profile, Exif and XMP.
_METADATA: Final = 0x20 | 0x08 | 0x04
_PICTURE: Final = (b"VP8 ", b"VP8L", b"ANMF")


class WebP(NamedTuple):
    """A WebP reduced to its first frame."""

    size: Size
    parts: tuple[memoryview | bytes, ...]  #: of the picture
    metadata: dict[bytes, memoryview]  #: the chunks EXIF and ICCP
    has_alpha: bool

    @property
    def exif(self) -> bytes:
        """The Exif block."""
        return bytes(self.metadata.get(b"EXIF", b""))

    @property
    def profile(self) -> bytes | None:
        """The embedded profile."""
        return bytes(self.metadata[b"ICCP"]) if b"ICCP" in self.metadata else None

    @property
    def first_frame(self) -> bytes:
        """A WebP that has this frame only."""
        return struct.pack("<4sI4s", b"RIFF", 4 + sum(map(len, self.parts)), b"WEBP") + b"".join(self.parts)


def read_webp(file: File) -> WebP:
    """Parse a WebP.

    Raises:
        ValueError: the file has no picture, or is truncated.
        struct.error: the file ends before its picture.
        PermanentError: `too_large`.
    """
    size: Size | None = None
    parts: list[memoryview | bytes] = []
    metadata: dict[bytes, memoryview] = {}
    has_picture = has_alpha = False
    for name, start, end in chunks(file):
        whole = file.view(start - 8, end + (end - start) % 2)
        if name == b"VP8X" and size is None:
            size, has_alpha = _canvas(file, start), bool(whole[8] & _ALPHA)
            parts += [whole[:8], bytes([whole[8] & ~_METADATA]), whole[9:]]
        elif name in _PICTURE:
            if not has_picture:
                parts.append(whole)
                has_alpha = has_alpha or (name == b"VP8L" and _has_lossless_alpha(file, start))
                size = size or _frame_size(name, file, start)
            has_picture = True
        elif name in (b"ALPH", b"ANIM") and not has_picture:
            parts.append(whole)
            has_alpha = has_alpha or name == b"ALPH"
        elif name in (b"EXIF", b"ICCP") and end - start <= MAX_PROFILE_BYTES:
            metadata.setdefault(name, file.view(start, end))
    if size is None:
        raise ValueError("the WebP has no picture")
    return WebP(size, tuple(parts), metadata, has_alpha)


def chunks(file: File) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, and the start and end of its data.

    Raises:
        ValueError: a chunk is truncated.
        PermanentError: `too_large`.
    """
    (length,) = file.unpack("<I", 4)
    at, total = 12, min(len(file), 8 + length)
    if 8 + length > len(file) + 1:  # the last padding byte may be missing
        raise ValueError("the WebP is truncated")
    while at + 8 <= total:
        name, length = file.unpack("<4sI", at)
        if at + 8 + length > total:
            raise ValueError("a chunk of the WebP is truncated")
        yield name, at + 8, at + 8 + length
        at += 8 + length + length % 2


def _canvas(file: File, start: int) -> Size:
    width, more_width, height, more_height = file.unpack("<4xHBHB", start)
    return width + 1 + (more_width << 16), height + 1 + (more_height << 16)


def _has_lossless_alpha(file: File, start: int) -> bool:
    return bool(file.unpack("<xI", start)[0] & _LOSSLESS_ALPHA)


def _frame_size(name: bytes, file: File, start: int) -> Size:
    """Return the size in the header of a still picture.

    Raises:
        ValueError: it is not such a header.
    """
    if name == b"VP8 " and file.copy(start + 3, start + 6) == b"\x9d\x01\x2a":
        width, height = file.unpack("<HH", start + 6)
        return width & 0x3FFF, height & 0x3FFF
    if name == b"VP8L" and file.copy(start, start + 1) == b"\x2f":
        (bits,) = file.unpack("<I", start + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise ValueError("the picture of the WebP has no header")
