"""Writes TIFFs of any layout: depth, sample format, planes, strips or tiles, compression and byte order."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

#: Numbers of compressions.
NONE, LZW, DEFLATE = 1, 5, 8
#: Numbers of photometric interpretations.
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
#: Numbers of sample formats.
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
SEPARATE: Final = 2

Pixel = tuple[float, ...]


def tiff(
    rows: Sequence[Sequence[Pixel]],
    photometric: int,
    *,
    order: str = "<",
    bits: int = 8,
    sample_format: int = UNSIGNED,
    is_separate: bool = False,
    compression: int = NONE,
    tile: int = 0,
    colour_map: Sequence[int] = (),
    extra: Sequence[int] = (),
    tags: dict[int, Sequence[int]] | None = None,
) -> bytes:
    """Return a TIFF of these pixels, each of one number for each sample.

    Args:
        rows: the pixels.
        photometric: the interpretation.
        order: `<` or `>`.
        bits: of each sample.
        sample_format: UNSIGNED, SIGNED or FLOAT.
        is_separate: whether each sample has a plane of its own.
        compression: NONE, LZW or DEFLATE.
        tile: the side of tiles; 0 for one strip.
        colour_map: all reds, all greens, all blues.
        extra: the meaning of each extra sample.
        tags: further tags, of 16 bits.
    """
    height, width, samples = len(rows), len(rows[0]), len(rows[0][0])
    planes = [[[(pixel[index],) for pixel in row] for row in rows] for index in range(samples)]
    parts = [
        _compressed(_packed(part, order, bits, sample_format), compression)
        for plane in (planes if is_separate else [rows])
        for part in (_tiles(plane, tile) if tile else [plane])
    ]
    shorts: dict[int, Sequence[int]] = {
        256: [width], 257: [height], 258: [bits] * samples, 259: [compression], 262: [photometric], 277: [samples],
        284: [SEPARATE if is_separate else 1], 339: [sample_format] * samples,
    }  # fmt: skip
    shorts |= {322: [tile], 323: [tile]} if tile else {278: [height]}
    shorts |= {tag: values for tag, values in ((320, colour_map), (338, extra)) if values} | (tags or {})
    return _assembled(parts, shorts, order, (324, 325) if tile else (273, 279))


def _tiles(rows: Sequence[Sequence[Pixel]], side: int) -> Iterator[Sequence[Sequence[Pixel]]]:
    nothing = (0,) * len(rows[0][0])
    for top in range(0, len(rows), side):
        for left in range(0, len(rows[0]), side):
            part = [list(row[left : left + side]) for row in rows[top : top + side]]
            part = [row + [nothing] * (side - len(row)) for row in part]
            yield part + [[nothing] * side] * (side - len(part))


def _packed(rows: Sequence[Sequence[Pixel]], order: str, bits: int, sample_format: int) -> bytes:
    numbers = [[sample for pixel in row for sample in pixel] for row in rows]
    if bits < 8 or bits == 12:
        padded = ["".join(f"{int(number):0{bits}b}" for number in row) for row in numbers]
        return b"".join(
            int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in padded
        )
    letter = {FLOAT: {16: "e", 32: "f", 64: "d"}, SIGNED: {8: "b", 16: "h", 32: "i", 64: "q"}}.get(
        sample_format, {8: "B", 16: "H", 32: "I", 64: "Q"}
    )[bits]
    kind = float if sample_format == FLOAT else int
    return b"".join(struct.pack(f"{order}{len(row)}{letter}", *map(kind, row)) for row in numbers)


def _compressed(data: bytes, compression: int) -> bytes:
    return {NONE: bytes, LZW: _lzw, DEFLATE: zlib.compress}[compression](data)


def _lzw(data: bytes) -> bytes:
    """Code each byte as itself. A clear code before the table is full keeps all codes at 9 bits."""
    clear, end, run = 256, 257, 250
    codes = [code for start in range(0, len(data), run) for code in (clear, *data[start : start + run])] + [end]
    text = "".join(f"{code:09b}" for code in codes)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


def _assembled(parts: list[bytes], shorts: dict[int, Sequence[int]], order: str, names: tuple[int, int]) -> bytes:
    body, offsets = b"", []
    for part in parts:
        offsets.append(8 + len(body))
        body += part + bytes(len(part) % 2)
    entries = {tag: (3, "H", values) for tag, values in shorts.items()}
    entries |= {names[0]: (4, "I", offsets), names[1]: (4, "I", [len(part) for part in parts])}
    directory = b""
    for tag, (kind, letter, values) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(packed) > 4:
            packed, body = struct.pack(f"{order}I", 8 + len(body)), body + packed
        directory += struct.pack(f"{order}HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    count = struct.pack(f"{order}H", len(entries))
    return mark + struct.pack(f"{order}I", 8 + len(body)) + body + count + directory + bytes(4)
