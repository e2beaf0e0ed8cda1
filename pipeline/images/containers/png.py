"""PNG (W3C Portable Network Graphics, third edition): its first picture, and the chunks about colours.

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

from pipeline.images.containers.model import MAX_PROFILE_BYTES

#: Bytes of pixels to inflate at a time when they are only counted.
_INFLATED_AT_A_TIME: Final = 1_048_576

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
#: Maximum chunks of a PNG: 50 MB in chunks of 500 bytes. Encoders write chunks of 8 KiB or more.
_MAX_CHUNKS: Final = 100_000
#: Bytes of a tRNS chunk by colour type: one grey, one colour, or the alpha of each entry of a palette.
_TRANSPARENCY_BYTES: Final = {0: 2, 2: 6, 3: 256}
#: Bytes of a palette. Pillow would copy more, each time that it looks at one.
_PALETTE_BYTES: Final = 768


class Png(NamedTuple):
    """A PNG reduced to its first picture."""

    parts: tuple[bytes | memoryview, ...]  #: of the picture
    size: tuple[int, int]  #: of the whole image
    place: tuple[int, int]  #: left and top of the picture, because the first frame of an animation may be smaller
    exif: bytes
    compressed_profile: bytes  #: the chunk iCCP
    colours: dict[bytes, bytes]  #: the chunks sRGB, cICP, gAMA and cHRM
    has_alpha: bool

    @property
    def picture(self) -> bytes:
        """A PNG that has the picture only."""
        return b"".join(self.parts)

    @property
    def profile(self) -> bytes | None:
        """The embedded profile. It is inflated here, and not where only the size is needed."""
        return _inflated(self.compressed_profile)


def read_png(source: bytes) -> Png:  # noqa: PLR0912 - one branch for each kind of chunk
    """Parse a PNG.

    Raises:
        ValueError: the file has no picture.
        struct.error: the header is too short.
    """
    if source[12:16] != b"IHDR":
        raise ValueError("the PNG does not begin with its header")
    header = source[16:29]
    width, height, depth, kind = struct.unpack_from(">IIBB", header)
    if not depth:
        raise ValueError("the PNG has no bits")
    view = memoryview(source)
    kept: list[bytes | memoryview] = []
    frame: list[bytes | memoryview] = []
    aside: dict[bytes, bytes] = {}
    bounds: bytes | None = None  # of the first frame of an animation
    has_pixels, is_animated, is_default_first, at = False, False, False, 8
    has_alpha = kind in (4, 6)
    for name, start, end in chunks(source):
        at = end + 4
        if name == b"tRNS":
            transparency = source[start : min(end, start + _TRANSPARENCY_BYTES.get(kind, 0))]
            kept.append(_chunk(name, _transparency(transparency, depth, kind)))
            has_alpha = True
        elif name == b"PLTE" and end - start > _PALETTE_BYTES:
            kept.append(_chunk(name, source[start : min(end, start + _PALETTE_BYTES)]))
        elif name in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            kept.append(view[start - 8 : end + 4])
            has_pixels = has_pixels or name == b"IDAT"
        elif name == b"acTL":
            # Without frames, it is not animated. Neither is it here if the default image is the first frame.
            is_animated = not has_pixels and not is_default_first and source[start : start + 4] != bytes(4)
        elif name == b"fcTL" and not has_pixels:
            is_animated, is_default_first = False, True
        elif name == b"fcTL" and is_animated:
            if bounds is not None:
                is_animated = False  # this is the second frame: ignore it and the rest
            else:
                bounds = source[start + 4 : start + 20]
        elif name == b"fdAT" and is_animated and bounds:
            frame.append(_chunk(b"IDAT", source[start + 4 : end]))
        elif name in (b"eXIf", b"iCCP", b"sRGB", b"cICP", b"gAMA", b"cHRM"):
            aside.setdefault(name, source[start:end])
    place, rest = (0, 0), view[at:]
    if bounds and frame:
        place, rest = struct.unpack_from(">II", bounds, 8), view[:0]
        first = _chunk(b"IHDR", bounds[:8] + header[8:])
        kept = [first, *(chunk for chunk in kept if chunk[4:8] in (b"PLTE", b"tRNS")), *frame, _chunk(b"IEND", b"")]
    return Png(
        parts=(_SIGNATURE, *kept, rest),
        size=(width, height),
        place=place,
        exif=aside.pop(b"eXIf", b""),
        compressed_profile=aside.pop(b"iCCP", b""),
        colours=aside,
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
    inflater = zlib.decompressobj()
    for name, start, end in chunks(png):
        data = png[start:end] if name == b"IDAT" else b""
        while data and missing > 0:
            missing -= len(inflater.decompress(data, _INFLATED_AT_A_TIME))
            data = inflater.unconsumed_tail
    return missing <= 0


def chunks(source: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each complete chunk, and the start and end of its data.

    Raises:
        ValueError: there are too many chunks.
    """
    at, total = 8, len(source)
    for _ in range(_MAX_CHUNKS):
        if at + 12 > total:
            return
        (length,) = struct.unpack_from(">I", source, at)
        start, end = at + 8, at + 8 + length
        if end + 4 > total:
            return
        name = source[at + 4 : start]
        yield name, start, end
        if name == b"IEND":
            return
        at = end + 4
    raise ValueError(f"the PNG has over {_MAX_CHUNKS} chunks")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


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
