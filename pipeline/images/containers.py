"""Parsers for the structure of JPEG, PNG and TIFF files, which decode no pixels.

Pillow reads all metadata before it returns the size: texts, profiles and Exif blocks of any length. The functions here
reduce a JPEG or PNG to its first picture, and read only its orientation and colours. A decompression bomb in a text is
skipped without inflating it, and a harmless 5 MB of text or profile do not prevent rendering.

Broken metadata counts as absent. ValueError, IndexError and struct.error mean that the file has no picture.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from math import ceil
from typing import Final, NamedTuple

#: Maximum bytes of an embedded profile; larger ones are ignored. Profiles of printing presses have 0.5 to 3 MB.
MAX_PROFILE_BYTES: Final = 16_777_216
#: Bytes of pixels to inflate at a time when they are only counted.
_INFLATED_AT_A_TIME: Final = 1_048_576
#: Maximum numbers in a tag of a TIFF: 65,535 strips of four planes. Pillow makes a Python object of each number.
MAX_TAG_VALUES: Final = 262_144


def orientation(exif: bytes) -> int:
    """Return the orientation in an Exif block, from 1 (upright) to 8. It is 1 if the block is broken or has none."""
    block = memoryview(exif)[6:] if exif.startswith(b"Exif\0\0") else memoryview(exif)
    order = {b"II": "<", b"MM": ">"}.get(bytes(block[:2]))
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, entry)
            if tag == 0x0112 and kind == 3:
                return int(value) if value in range(1, 9) else 1
    except struct.error:
        pass
    return 1


# JPEG (ITU T.81, annex B)

#: A marker with a length. 0x01 and 0xD0 to 0xD9 have none, 0x00 is an escape, and 0xFF is padding.
_MARKER: Final = re.compile(rb"\xff[^\x00\x01\xd0-\xd9\xff]")
#: Maximum segments of a JPEG before its picture. Real ones have tens.
_MAX_SEGMENTS: Final = 10_000
_FRAMES: Final = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = {0xC2, 0xC6, 0xCA, 0xCE}
_ARITHMETIC: Final = {*range(0xC9, 0xD0)} - {0xCC}
_SCAN: Final = 0xDA
_TABLES: Final = {0xC4, 0xCC, 0xDB, 0xDD}


class Jpeg(NamedTuple):
    """A JPEG reduced to its first picture."""

    picture: bytes  #: without metadata, except segments that define the coding of its colours
    exif: bytes
    profile: bytes | None
    coefficients: int  #: bytes that libjpeg holds for the whole picture; 0 if a single pass codes it
    scans: int  #: passes over the picture; an upper bound, because passes of a second picture count too
    is_arithmetic: bool  #: whether it uses arithmetic instead of Huffman coding


def read_jpeg(source: bytes) -> Jpeg:
    """Parse a JPEG.

    Raises:
        ValueError: the file has no picture.
        IndexError: a segment is too short.
        struct.error: a segment is too short.
    """
    kept, exif, profile = [b"\xff\xd8"], b"", {}
    components, in_memory = 0, 0
    is_progressive = is_arithmetic = False
    for at, marker, segment in _segments(source):
        if marker == _SCAN:
            break
        if marker in _FRAMES:
            components, is_progressive, is_arithmetic = segment[5], marker in _PROGRESSIVE, marker in _ARITHMETIC
            in_memory = _coefficients(segment)
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            exif = exif or segment
        elif marker == 0xE2 and segment.startswith(b"ICC_PROFILE\0"):
            profile[segment[12]] = segment[14:]
        if marker in _FRAMES or marker in _TABLES or (marker, segment[:5]) in ((0xE0, b"JFIF\0"), (0xEE, b"Adobe")):
            kept.append(source[at : at + 4 + len(segment)])
    has_passes = is_progressive or segment[0] < components
    return Jpeg(
        picture=b"".join([*kept, memoryview(source)[at:]]),
        exif=exif,
        profile=b"".join(profile[number] for number in sorted(profile)) or None,
        coefficients=in_memory if has_passes else 0,
        scans=source.count(b"\xff\xda", at) if has_passes else 1,
        is_arithmetic=is_arithmetic,
    )


def _segments(source: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the offset, marker and content of each segment.

    Raises:
        ValueError: there is no next segment, or there are too many.
    """
    at = 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(source, at)
        if not found:
            raise ValueError("the JPEG ends before its picture")
        at = found.start()
        (length,) = struct.unpack_from(">H", source, at + 2)
        yield at, source[at + 1], source[at + 4 : at + 2 + length]
        at += 2 + length
    raise ValueError(f"the JPEG has over {_MAX_SEGMENTS} segments before its picture")


def _coefficients(frame: bytes) -> int:
    """Return the bytes of all coefficients of a frame: two bytes each, in blocks of 8 x 8, by sampling factors."""
    height, width = struct.unpack_from(">HH", frame, 1)
    factors = [divmod(frame[6 + 3 * index + 1], 16) for index in range(frame[5])]
    across, down = max(each[0] for each in factors), max(each[1] for each in factors)
    blocks = sum(horizontal * vertical for horizontal, vertical in factors)
    return int(ceil(width / (8 * across)) * ceil(height / (8 * down)) * blocks * 64 * 2)


# PNG (W3C Portable Network Graphics, third edition)

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
#: Maximum chunks of a PNG: 50 MB in chunks of 500 bytes. Encoders write chunks of 8 KiB or more.
_MAX_CHUNKS: Final = 100_000


class Png(NamedTuple):
    """A PNG reduced to its first picture."""

    picture: bytes
    size: tuple[int, int]  #: of the whole image
    place: tuple[int, int]  #: left and top of the picture, because the first frame of an animation may be smaller
    exif: bytes
    profile: bytes | None
    colours: dict[bytes, bytes]  #: the chunks sRGB, cICP, gAMA and cHRM


def read_png(source: bytes) -> Png:
    """Parse a PNG.

    Raises:
        ValueError: the file has no picture.
        struct.error: the header is too short.
    """
    if source[12:16] != b"IHDR":
        raise ValueError("the PNG does not begin with its header")
    header = source[16:29]
    width, height, depth, kind = struct.unpack_from(">IIBB", header)
    kept: list[bytes] = []
    frame: list[bytes] = []
    aside: dict[bytes, bytes] = {}
    bounds: bytes | None = None  # of the first frame of an animation
    has_pixels, is_animated, at = False, False, 8
    for name, start, end in _chunks(source):
        if name == b"tRNS":
            kept.append(_chunk(name, _transparency(source[start:end], depth, kind)))
        elif name in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            kept.append(source[start - 8 : end + 4])
            has_pixels = has_pixels or name == b"IDAT"
        elif name == b"acTL":
            is_animated = not has_pixels and source[start : start + 4] != bytes(4)  # without frames, it is not animated
        elif name == b"fcTL" and is_animated:
            if bounds is not None:
                is_animated = False  # this is the second frame: ignore it and the rest
            elif has_pixels:
                bounds = source[start + 4 : start + 20]
            else:
                is_animated = False  # the default image is the first frame
        elif name == b"fdAT" and is_animated and bounds:
            frame.append(_chunk(b"IDAT", source[start + 4 : end]))
        elif name in (b"eXIf", b"iCCP", b"sRGB", b"cICP", b"gAMA", b"cHRM"):
            aside.setdefault(name, source[start:end])
        at = end + 4
    place, rest = (0, 0), source[at:]
    if bounds and frame:
        place, rest = struct.unpack_from(">II", bounds, 8), b""
        first = _chunk(b"IHDR", bounds[:8] + header[8:])
        kept = [first, *(chunk for chunk in kept if chunk[4:8] in (b"PLTE", b"tRNS")), *frame, _chunk(b"IEND", b"")]
    return Png(
        picture=b"".join([_SIGNATURE, *kept, rest]),
        size=(width, height),
        place=place,
        exif=aside.pop(b"eXIf", b""),
        profile=_inflated(aside.pop(b"iCCP", b"")),
        colours=aside,
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
    for name, start, end in _chunks(png):
        data = png[start:end] if name == b"IDAT" else b""
        while data and missing > 0:
            missing -= len(inflater.decompress(data, _INFLATED_AT_A_TIME))
            data = inflater.unconsumed_tail
    return missing <= 0


def _chunks(source: bytes) -> Iterator[tuple[bytes, int, int]]:
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


# TIFF (revision 6.0, section 2; BigTIFF as libtiff describes it)

_TEXT_TYPES: Final = {1, 2, 6, 7}  # bytes, which do not become Python objects one by one


def check_tiff(source: bytes) -> None:
    """Check the lengths of tags.

    Raises:
        ValueError: a tag of the first directory has more than `MAX_TAG_VALUES` numbers.
    """
    order = "<" if source.startswith(b"II") else ">"
    is_big = 43 in source[2:4]
    offset, head, entry = ("Q", "Q", "HHQ8x") if is_big else ("I", "H", "HHI4x")
    (start,) = struct.unpack_from(order + offset, source, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + head, source, start)
    start += struct.calcsize(order + head)
    size = struct.calcsize(order + entry)
    for tag, kind, values in struct.iter_unpack(order + entry, source[start : start + min(count, 65_536) * size]):
        if values > MAX_TAG_VALUES and kind not in _TEXT_TYPES:
            raise ValueError(f"tag {tag} has {values} numbers")
