"""WebP (RFC 9649): its first picture, without metadata."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from pipeline.images.containers.model import MAX_PROFILE_BYTES, Size

#: Maximum chunks: frames of an animation, and metadata.
_MAX_CHUNKS: Final = 100_000
#: Flags of the chunk VP8X for chunks that are dropped: profile, Exif and XMP.
_METADATA: Final = 0x20 | 0x08 | 0x04
_PICTURE: Final = (b"VP8 ", b"VP8L", b"ANMF")


class WebP(NamedTuple):
    """A WebP reduced to its first picture."""

    size: Size
    parts: tuple[memoryview | bytes, ...]  #: of the picture
    exif: bytes
    profile: bytes | None
    has_alpha: bool = True

    @property
    def picture(self) -> bytes:
        """A WebP that has the picture only."""
        return struct.pack("<4sI4s", b"RIFF", 4 + sum(map(len, self.parts)), b"WEBP") + b"".join(self.parts)


def read_webp(source: bytes) -> WebP:
    """Parse a WebP.

    Raises:
        ValueError: the file has no picture, or is truncated.
        struct.error: the file ends before its picture.
    """
    size: Size | None = None
    parts: list[memoryview | bytes] = []
    metadata: dict[bytes, bytes] = {}
    has_picture = False
    view = memoryview(source)
    for name, start, end in chunks(source):
        whole = view[start - 8 : end + (end - start) % 2]
        if name == b"VP8X" and size is None:
            size = _canvas(source, start)
            parts += [whole[:8], bytes([whole[8] & ~_METADATA]), whole[9:]]
        elif name in _PICTURE:
            if not has_picture:
                parts.append(whole)
                size = size or _frame_size(name, source, start)
            has_picture = True
        elif name in (b"ALPH", b"ANIM") and not has_picture:
            parts.append(whole)
        elif name in (b"EXIF", b"ICCP") and end - start <= MAX_PROFILE_BYTES:
            metadata.setdefault(name, source[start:end])
    if size is None:
        raise ValueError("the WebP has no picture")
    return WebP(size, tuple(parts), metadata.get(b"EXIF", b""), metadata.get(b"ICCP"))


def chunks(source: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, and the start and end of its data.

    Raises:
        ValueError: a chunk is truncated, or there are too many.
    """
    (length,) = struct.unpack_from("<I", source, 4)
    at, total = 12, min(len(source), 8 + length)
    if 8 + length > len(source) + 1:  # the last padding byte may be missing
        raise ValueError("the WebP is truncated")
    for _ in range(_MAX_CHUNKS):
        if at + 8 > total:
            return
        name, length = struct.unpack_from("<4sI", source, at)
        if at + 8 + length > total:
            raise ValueError("a chunk of the WebP is truncated")
        yield name, at + 8, at + 8 + length
        at += 8 + length + length % 2
    raise ValueError(f"the WebP has over {_MAX_CHUNKS} chunks")


def _canvas(source: bytes, start: int) -> Size:
    _, width, _, height, _ = struct.unpack_from("<IHBHB", source, start)
    return width + 1 + (source[start + 6] << 16), height + 1 + (source[start + 9] << 16)


def _frame_size(name: bytes, source: bytes, start: int) -> Size:
    """Return the size in the header of a still picture.

    Raises:
        ValueError: it is not such a header.
    """
    if name == b"VP8 " and source[start + 3 : start + 6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", source, start + 6)
        return width & 0x3FFF, height & 0x3FFF
    if name == b"VP8L" and source[start : start + 1] == b"\x2f":
        (bits,) = struct.unpack_from("<I", source, start + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise ValueError("the picture of the WebP has no header")
