"""The orientation in an Exif block."""

from __future__ import annotations

import struct


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
