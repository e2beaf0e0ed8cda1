"""JPEG (ITU T.81, annex B): the parts before the first picture. The pixels are not decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from math import ceil
from typing import Final, NamedTuple

from pipeline.errors import PermanentError
from pipeline.images.containers.model import File, Size

#: A marker with a length. 0x01 and 0xD0 to 0xD9 have none, 0x00 is an escape, and 0xFF is padding.
_MARKER: Final = re.compile(rb"\xff[^\x00\x01\xd0-\xd9\xff]")
_PROGRESSIVE: Final = {0xC2, 0xC6, 0xCA, 0xCE}
#: Codings by the marker of their frames, which no browser supports. Arithmetic coding takes six times as long.
_UNUSUAL: Final = {
    0xC3: "lossless", **dict.fromkeys(range(0xC5, 0xC8), "hierarchical"), 0xF7: "JPEG-LS",
    **dict.fromkeys({*range(0xC9, 0xD0)} - {0xCC}, "arithmetic"),
}  # fmt: skip
_FRAMES: Final = {0xC0, 0xC1, 0xC2, *_UNUSUAL}
_BITS: Final = 8
_SCAN: Final = 0xDA
_TABLES: Final = {0xC4, 0xCC, 0xDB, 0xDD}
#: Segments about the colours by marker: their beginning, and the bytes from which libjpeg takes them for whole.
_COLOURS: Final = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}

#: Bytes at the start of a segment that tell what it is: as many as those of a profile before its data.
_HEAD_BYTES: Final = 14

#: Maximum passes of a JPEG. Encoders write 10, and an attacker needs 250 bytes for each.
MAX_SCANS: Final = 200
#: Maximum pixels of all passes of a JPEG: 14 passes of 178 megapixels. A refining pass takes 0.65 s per 10^9 pixels.
MAX_SCANNED_PIXELS: Final = 2_500_000_000


class Jpeg(NamedTuple):
    """A JPEG reduced to its first picture."""

    size: Size
    parts: tuple[
        bytes | memoryview, ...
    ]  #: of the picture, without metadata, except segments that define the coding of its colours
    exif: bytes
    profile_parts: tuple[memoryview, ...]
    coefficients: int  #: bytes that libjpeg holds for the whole picture; 0 if a single pass codes it
    scans: int  #: passes over the picture; an upper bound, because passes of a second picture count too
    unusual: str  #: why it cannot be decoded; empty for the usual codings
    has_alpha: bool = False

    @property
    def picture(self) -> bytes:
        """A JPEG that has the picture only."""
        return b"".join(self.parts)

    @property
    def profile(self) -> bytes | None:
        """The embedded profile."""
        return b"".join(self.profile_parts) or None

    def check(self) -> None:
        """Check how it is coded.

        Raises:
            PermanentError: `too_large` or `unsupported_format`.
        """
        (width, height), scans = self.size, self.scans
        if scans > MAX_SCANS:
            raise PermanentError("too_large", f"The JPEG is coded in {scans} passes; {MAX_SCANS} are accepted.")
        if self.unusual:
            message = f"The JPEG uses {self.unusual}; only baseline and progressive coding of 8 bits is accepted."
            raise PermanentError("unsupported_format", message)
        if scans * width * height > MAX_SCANNED_PIXELS:
            passes = f"{scans} passes over {width} x {height} pixels"
            message = f"The JPEG is coded in {passes}; {MAX_SCANNED_PIXELS} pixels are accepted."
            raise PermanentError("too_large", message)


def read_jpeg(file: File) -> Jpeg:
    """Parse a JPEG.

    Raises:
        ValueError: the file has no picture, or more than one frame header.
        IndexError: a segment is too short.
        struct.error: a segment is too short.
        PermanentError: `too_large`.
    """
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    exif, profile = b"", {}
    components, in_memory, size = 0, 0, (0, 0)
    is_progressive, unusual = False, ""
    for marker, start, end in _segments(file):
        if marker == _SCAN:
            break
        head = file.copy(start, min(end, start + _HEAD_BYTES))
        if marker in _FRAMES:
            if components:
                raise ValueError("the JPEG has a second frame header")
            frame = file.copy(start, end)
            components, is_progressive, unusual = frame[5], marker in _PROGRESSIVE, _unusual(marker, frame[0])
            in_memory = _coefficients(frame)
            height, width = struct.unpack_from(">HH", frame, 1)
            size = (width, height)
        elif marker == 0xE1 and head.startswith(b"Exif\0\0"):
            exif = exif or file.copy(start, end)
        elif marker == 0xE2 and head.startswith(b"ICC_PROFILE\0"):
            profile[head[12]] = file.view(start + _HEAD_BYTES, max(end, start + _HEAD_BYTES))
        if marker in _FRAMES or marker in _TABLES or _is_about_colours(marker, head):
            kept.append(file.view(start - 4, end))
    has_passes = is_progressive or file.byte(start) < components
    if not components:
        raise ValueError("the JPEG has no frame")
    return Jpeg(
        size=size,
        parts=(*kept, file.view(start - 4)),
        exif=exif,
        profile_parts=tuple(profile[number] for number in sorted(profile)),
        coefficients=in_memory if has_passes else 0,
        scans=file.count(b"\xff\xda", start - 4) if has_passes else 1,
        unusual=unusual,
    )


def _unusual(marker: int, bits: int) -> str:
    if marker in _UNUSUAL:
        return f"{_UNUSUAL[marker]} coding"
    return "" if bits == _BITS else f"samples of {bits} bits"


def _is_about_colours(marker: int, head: bytes) -> bool:
    """Return whether a segment defines the coding of colours. Pillow refuses shorter ones, which libjpeg ignores."""
    start, length = _COLOURS.get(marker, (b"", 0))
    return bool(start) and head.startswith(start) and len(head) >= length


def _segments(file: File) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment, and the start and end of its content.

    Raises:
        ValueError: the next segment is missing.
        PermanentError: `too_large`.
    """
    at = 2
    while (found := file.find(_MARKER, at)) is not None:
        marker, length = file.unpack(">xBH", found)
        at = found + 2 + length
        yield marker, found + 4, max(found + 4, min(at, len(file)))
    raise ValueError("the JPEG ends before its picture")


def _coefficients(frame: bytes) -> int:
    """Return the bytes of all coefficients of a frame: two bytes each, in blocks of 8 x 8, by sampling factors."""
    height, width = struct.unpack_from(">HH", frame, 1)
    factors = [divmod(frame[6 + 3 * index + 1], 16) for index in range(frame[5])]
    across, down = max(each[0] for each in factors), max(each[1] for each in factors)
    if not across or not down:
        raise ValueError("the JPEG has sampling factors of 0")
    blocks = sum(horizontal * vertical for horizontal, vertical in factors)
    return int(ceil(width / (8 * across)) * ceil(height / (8 * down)) * blocks * 64 * 2)
