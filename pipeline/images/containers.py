"""What a JPEG, PNG or TIFF file is made of, read without decoding a pixel.

Pillow reads all of a file's metadata before it hands out the size: texts, profiles and Exif blocks of any size. Here a
JPEG or PNG is reduced to what shows its first picture, and of the rest only orientation and colours are read. So a bomb
of text is skipped instead of inflated, and an honest 5 MB of text or profile are no reason to refuse a cover.

Nothing is raised for the sake of metadata: what is broken counts as absent. ValueError, IndexError or struct.error mean
that there is no picture.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from math import ceil
from typing import Final, NamedTuple

#: An embedded profile is inflated up to here; larger ones are ignored. Those of printing presses have 0.5 to 3 MB.
MAX_PROFILE_BYTES: Final = 16_777_216
#: Bytes that pixels are inflated to at a time where they are only counted.
_INFLATED_AT_A_TIME: Final = 1_048_576
#: A TIFF's tag holds at most so many numbers, 65,535 strips of four planes: Pillow makes a Python object of each.
MAX_TAG_VALUES: Final = 262_144


def orientation(exif: bytes) -> int:
    """What an Exif block says of the orientation: 1 (upright) to 8; 1 where it is broken or says nothing."""
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

#: A marker with a length. The others are 0x01 and 0xD0 to 0xD9; 0x00 is no marker but an escape, and 0xFF fills.
_MARKER: Final = re.compile(rb"\xff[^\x00\x01\xd0-\xd9\xff]")
#: A JPEG has at most so many segments before its picture. Real ones have tens.
_MAX_SEGMENTS: Final = 10_000
_FRAMES: Final = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = {0xC2, 0xC6, 0xCA, 0xCE}
_ARITHMETIC: Final = {*range(0xC9, 0xD0)} - {0xCC}
_SCAN: Final = 0xDA
_TABLES: Final = {0xC4, 0xCC, 0xDB, 0xDD}


class Jpeg(NamedTuple):
    """A JPEG reduced to its first picture."""

    picture: bytes  #: without metadata, but with what says how its colours are coded
    exif: bytes
    profile: bytes | None
    coefficients: (
        int  #: bytes that libjpeg holds for the whole picture: 0 if it is coded in one pass from top to bottom
    )
    scans: int  #: passes over the picture, 1 if coded in one; at most, for it counts those of a second picture too
    is_arithmetic: bool  #: whether it is coded by arithmetic instead of Huffman's tables


def read_jpeg(source: bytes) -> Jpeg:
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
    """Where each segment begins, its marker, and what it holds. Raises ValueError where the next one should be."""
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
    """The bytes of all of a frame's coefficients: two for each, in blocks of 8 x 8, by sampling factors."""
    height, width = struct.unpack_from(">HH", frame, 1)
    factors = [divmod(frame[6 + 3 * index + 1], 16) for index in range(frame[5])]
    across, down = max(each[0] for each in factors), max(each[1] for each in factors)
    blocks = sum(horizontal * vertical for horizontal, vertical in factors)
    return int(ceil(width / (8 * across)) * ceil(height / (8 * down)) * blocks * 64 * 2)


# PNG (W3C Portable Network Graphics, third edition)

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
#: A PNG has at most so many chunks: 50 MB in pieces of 500 bytes. Encoders write 8 KiB or more at a time.
_MAX_CHUNKS: Final = 100_000


class Png(NamedTuple):
    """A PNG reduced to its first picture."""

    picture: bytes
    size: tuple[int, int]  #: of the whole
    place: tuple[int, int]  #: left and top of the picture in it: an animation's first frame may be smaller
    exif: bytes
    profile: bytes | None
    colours: dict[bytes, bytes]  #: the chunks sRGB, cICP, gAMA and cHRM


def read_png(source: bytes) -> Png:
    if source[12:16] != b"IHDR":
        raise ValueError("a PNG begins with its header")
    header = source[16:29]
    width, height, depth, kind = struct.unpack_from(">IIBB", header)
    kept: list[bytes] = []
    frame: list[bytes] = []
    aside: dict[bytes, bytes] = {}
    bounds: bytes | None = None  # of the frame that the animation begins with
    has_pixels, is_animated, at = False, False, 8
    for name, start, end in _chunks(source):
        if name == b"tRNS":
            kept.append(_chunk(name, _transparency(source[start:end], depth, kind)))
        elif name in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            kept.append(source[start - 8 : end + 4])
            has_pixels = has_pixels or name == b"IDAT"
        elif name == b"acTL":
            is_animated = not has_pixels and source[start : start + 4] != bytes(4)  # of no frames: not animated
        elif name == b"fcTL" and is_animated:
            if bounds is not None:
                is_animated = False  # the second frame: no more of them
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


#: The passes of an interlaced PNG: left, top, and the steps to the right and down (PNG, third edition, section 8.2).
_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


def has_all_rows(png: bytes) -> bool:
    """Whether the pixels of a PNG inflate to as many bytes as its header says; Pillow leaves missing rows black."""
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
    """Name, start and end of each whole chunk, up to the last; a chunk that is cut off is none.

    Raises ValueError where there are too many.
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
    """The transparent grey or colour as Pillow will decode it: it scales pixels to 8 bits (but not grey of 16)."""
    if kind not in (0, 2) or (kind == 0 and depth in (1, 16)):
        return data
    scaled = [
        value >> 8 if depth == 16 else value * 255 // (2**depth - 1) for (value,) in struct.iter_unpack(">H", data)
    ]
    return struct.pack(f">{len(scaled)}H", *scaled)


def _inflated(chunk: bytes) -> bytes | None:
    """The profile in an iCCP chunk: after a name, a zero and a method, which is zero too."""
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(chunk[chunk.index(b"\0") + 2 :], MAX_PROFILE_BYTES)
    except (ValueError, zlib.error):
        return None
    return profile if inflater.eof else None


# TIFF (revision 6.0, section 2; BigTIFF by libtiff's description)

_TEXT_TYPES: Final = {1, 2, 6, 7}  # bytes: not made into Python objects one by one


def check_tiff(source: bytes) -> None:
    """Raises ValueError if a tag of the first directory holds more than `MAX_TAG_VALUES` numbers."""
    order = "<" if source.startswith(b"II") else ">"
    is_big = 43 in source[2:4]
    offset, head, entry = ("Q", "Q", "HHQ8x") if is_big else ("I", "H", "HHI4x")
    (start,) = struct.unpack_from(order + offset, source, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + head, source, start)
    start += struct.calcsize(order + head)
    size = struct.calcsize(order + entry)
    for tag, kind, values in struct.iter_unpack(order + entry, source[start : start + min(count, 65_536) * size]):
        if values > MAX_TAG_VALUES and kind not in _TEXT_TYPES:
            raise ValueError(f"tag {tag} holds {values} numbers")
