"""BMP and ICO: the headers of bitmaps, and the largest picture of an icon."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from pipeline.errors import PermanentError
from pipeline.images.containers.model import File, Size
from pipeline.images.containers.png import Png, read_png

_BITFIELDS: Final = 3
#: Masks of red, green, blue and alpha with which Pillow finds alpha in a BMP.
_ALPHA_MASKS: Final = {
    (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
    (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
    (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    (0xFF000000, 0xFF00, 0xFF, 0xFF0000),
    (0, 0, 0, 0),
}
#: Largest side of an icon, whose directory has one byte for each.
_ICON_SIDE: Final = 256


class Bitmap(NamedTuple):
    """A BMP, as it is."""

    picture: bytes
    size: Size
    has_alpha: bool
    compression: int = 0  #: as in its header


class Icon(NamedTuple):
    """An icon reduced to its largest picture."""

    parts: tuple[bytes | memoryview, ...]  #: of an icon with this picture only
    png: Png | None  #: the picture itself, if it is a PNG
    size: Size
    has_alpha: bool

    @property
    def picture(self) -> bytes:
        """An icon that has the picture only, or the picture itself if it is a PNG."""
        return b"".join(self.parts)


def read_bmp(file: File) -> Bitmap:
    """Parse the header of a BMP.

    Raises:
        struct.error: it is too short.
    """
    (header_size,) = file.unpack("<I", 14)
    if header_size == 12:
        width, height = file.unpack("<HH", 18)
        return Bitmap(file.whole, (width, height), has_alpha=False)
    width, height, _, bits, compression = file.unpack("<iiHHI", 18)
    has_alpha = False
    if compression == _BITFIELDS and bits == 32:
        masks = file.unpack("<3I", 54)
        alpha = file.unpack("<I", 66)[0] if header_size >= 56 else 0
        has_alpha = (*masks, alpha) in _ALPHA_MASKS
    return Bitmap(file.whole, (abs(width), abs(height)), has_alpha, compression)


def read_ico(file: File) -> Icon:
    """Parse an icon. Pillow would decode its picture before the size can be checked.

    Raises:
        ValueError: it has no picture.
        struct.error: it is too short.
        PermanentError: `broken_image`: its picture is larger than an icon; or `too_large`.
    """
    (count,) = file.unpack("<H", 4)
    entries = (file.unpack("<4B2H2I", 6 + 16 * number) for number in range(count))
    width, height, *rest, _, offset = max(entries, key=lambda each: ((each[0] or 256) * (each[1] or 256), each[5]))
    picture = file.after(offset)
    if picture.copy(0, 4) == b"\x89PNG":
        png = read_png(picture)
        return Icon((picture.view(0),), png, png.size, png.has_alpha)
    wide, double_height = picture.unpack("<ii", 4)  # the height includes the mask
    if max(abs(wide), abs(double_height) // 2) > _ICON_SIDE:
        message = f"The icon's picture claims to be {wide} pixels wide; {_ICON_SIDE} are allowed."
        raise PermanentError("broken_image", message)
    entry = struct.pack("<4B2H2I", width, height, *rest, len(picture), 22)
    parts = (b"\0\0\1\0\1\0" + entry, picture.view(0))
    return Icon(parts, None, (width or 256, height or 256), has_alpha=True)
