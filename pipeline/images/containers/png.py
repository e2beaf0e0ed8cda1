"""PNG (W3C Portable Network Graphics, third edition): its first frame, and the chunks about colours.

Pillow reads all metadata before it returns the size: texts, profiles and Exif blocks of any length. Here a bomb in a
text is skipped without inflating it, and a harmless 5 MB of text or profile do not prevent rendering. Broken metadata
counts as absent.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import ceil
from typing import Final, NamedTuple

from pipeline.images.containers.model import MAX_PROFILE_BYTES, File

#: Bytes of pixels to inflate at a time when they are only counted.
_INFLATED_AT_A_TIME: Final = 1_048_576

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
#: Bytes of a tRNS chunk by colour type: one grey, one colour, or the alpha of each entry of a palette.
_TRANSPARENCY_BYTES: Final = {0: 2, 2: 6, 3: 256}
#: Bytes of the longest chunk about colours, and one more, so that longer ones are not taken for it.
_COLOUR_BYTES: Final = 33
#: Bytes of a palette. Pillow would copy more, each time that it looks at one.
_PALETTE_BYTES: Final = 768


class Png(NamedTuple):
    """A PNG reduced to its first frame."""

    parts: tuple[bytes | memoryview, ...]  #: of the picture
    size: tuple[int, int]  #: of the whole image
    place: tuple[int, int]  #: left and top of the picture, because the first frame of an animation may be smaller
    metadata: dict[bytes, memoryview]  #: the chunks eXIf and iCCP
    colours: dict[bytes, bytes]  #: the chunks sRGB, cICP, gAMA and cHRM
    has_alpha: bool

    @property
    def first_frame(self) -> bytes:
        """A PNG that has this frame only."""
        return b"".join(self.parts)

    @property
    def exif(self) -> bytes:
        """The Exif block."""
        return bytes(self.metadata.get(b"eXIf", b""))

    @property
    def profile(self) -> bytes | None:
        """The embedded profile. It is inflated here, and not where only the size is needed."""
        return _inflated(bytes(self.metadata.get(b"iCCP", b"")))


def read_png(file: File) -> Png:  # noqa: PLR0912 - one branch for each kind of chunk
    """Parse a PNG.

    Raises:
        ValueError: the file has no picture.
        struct.error: the header is too short.
        PermanentError: `too_large`.
    """
    if file.copy(12, 16) != b"IHDR":
        raise ValueError("the PNG does not begin with its header")
    header = file.copy(16, 29)
    width, height, depth, kind = struct.unpack_from(">IIBB", header)
    if not depth:
        raise ValueError("the PNG has no bits")
    kept: list[bytes | memoryview] = []
    frame: list[bytes | memoryview] = []
    metadata: dict[bytes, memoryview] = {}
    colours: dict[bytes, bytes] = {}
    bounds: bytes | None = None  # of the first frame of an animation
    has_pixels, is_animated, is_default_first, at = False, False, False, 8
    has_alpha = kind in (4, 6)
    for name, start, end in chunks(file):
        at = end + 4
        if name == b"tRNS":
            transparency = file.copy(start, min(end, start + _TRANSPARENCY_BYTES.get(kind, 0)))
            kept.append(_chunk(name, _transparency(transparency, depth, kind)))
            has_alpha = True
        elif name == b"PLTE" and end - start > _PALETTE_BYTES:
            kept.append(_chunk(name, file.copy(start, min(end, start + _PALETTE_BYTES))))
        elif name in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            kept.append(file.view(start - 8, end + 4))
            has_pixels = has_pixels or name == b"IDAT"
        elif name == b"acTL":
            # Without frames, it is not animated. Neither is it here if the default image is the first frame.
            is_animated = not has_pixels and not is_default_first and file.copy(start, start + 4) != bytes(4)
        elif name == b"fcTL" and not has_pixels:
            is_animated, is_default_first = False, True
        elif name == b"fcTL" and is_animated:
            if bounds is not None:
                is_animated = False  # this is the second frame: ignore it and the rest
            else:
                bounds = file.copy(start + 4, start + 20)
        elif name == b"fdAT" and is_animated and bounds:
            frame += _chunk_of(b"IDAT", file.view(start + 4, max(end, start + 4)))
            file.spend(2, size=end - start)  # because it has three parts, and a checksum
        elif name in (b"eXIf", b"iCCP") and end - start <= MAX_PROFILE_BYTES:
            metadata.setdefault(name, file.view(start, end))
        elif name in (b"sRGB", b"cICP", b"gAMA", b"cHRM"):
            colours.setdefault(name, file.copy(start, min(end, start + _COLOUR_BYTES)))
    place, rest = (0, 0), file.view(at)
    if bounds and frame:
        place, rest = struct.unpack_from(">II", bounds, 8), memoryview(b"")
        first = _chunk(b"IHDR", bounds[:8] + header[8:])
        kept = [first, *(chunk for chunk in kept if chunk[4:8] in (b"PLTE", b"tRNS")), *frame, _chunk(b"IEND", b"")]
    return Png(
        parts=(_SIGNATURE, *kept, rest),
        size=(width, height),
        place=place,
        metadata=metadata,
        colours=colours,
        has_alpha=has_alpha or bool(bounds and frame and bounds != header[:8] + bytes(8)),
    )


#: The passes of an interlaced PNG: left, top, and the steps right and down (PNG, third edition, section 8.2).
_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


def has_all_rows(png: bytes) -> bool:
    """Return whether a PNG contains all rows of its picture. Pillow would leave missing rows black."""
    width, height, depth, kind, _, _, is_interlaced = struct.unpack_from(">IIBBBBB", png, 16)
    bits = depth * _CHANNELS[kind]
    missing = 0
    for left, top, right, down in _PASSES if is_interlaced else ((0, 0, 1, 1),):
        columns, rows = ceil((width - left) / right), ceil((height - top) / down)
        missing += rows * (1 + ceil(columns * bits / 8)) if columns > 0 and rows > 0 else 0
    inflater, file = zlib.decompressobj(), File(png)
    for name, start, end in chunks(file):
        data = file.view(start, end) if name == b"IDAT" else b""
        while data and missing > 0:
            missing -= len(inflater.decompress(data, _INFLATED_AT_A_TIME))
            data = inflater.unconsumed_tail
    return missing <= 0


def chunks(file: File) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each complete chunk, and the start and end of its data.

    Raises:
        PermanentError: `too_large`.
    """
    at = 8
    while at + 12 <= len(file):
        length, name = file.unpack(">I4s", at)
        start, end = at + 8, at + 8 + length
        if end + 4 > len(file):
            return
        yield name, start, end
        if name == b"IEND":
            return
        at = end + 4


def _chunk(name: bytes, data: bytes) -> bytes:
    return b"".join(_chunk_of(name, data))


def _chunk_of(name: bytes, data: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
    """Return the parts of a chunk, of which `data` is not copied."""
    return struct.pack(">I", len(data)) + name, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def _transparency(data: bytes, depth: int, kind: int) -> bytes:
    """Scale the transparent grey or colour to 8 bits, as Pillow scales pixels (except grey of 1 or 16 bits)."""
    if kind not in (0, 2) or (kind == 0 and depth in (1, 16)):
        return data
    scaled = [
        value >> 8 if depth == 16 else value * 255 // (2**depth - 1) for (value,) in struct.iter_unpack(">H", data)
    ]
    return struct.pack(f">{len(scaled)}H", *scaled)


def _inflated(chunk: bytes) -> bytes | None:
    """Return the profile in an iCCP chunk. Before it are a name, a zero byte, and the method, which is zero too."""
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(chunk[chunk.index(b"\0") + 2 :], MAX_PROFILE_BYTES)
    except (ValueError, zlib.error):
        return None
    return profile if inflater.eof else None
