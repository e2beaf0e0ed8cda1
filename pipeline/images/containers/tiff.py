"""TIFF (revision 6.0, section 2; BigTIFF as libtiff describes it): the tags of the first picture."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from pipeline.errors import PermanentError
from pipeline.images.containers.model import File, Size, check_count

#: Maximum numbers in a tag: 65,535 strips of four planes. Pillow makes a Python object of each number.
MAX_TAG_VALUES: Final = 262_144
#: Maximum tags. Real files have 10 to 100.
MAX_TAGS: Final = 4_096

#: Types of whole numbers by their number, as `struct` names them.
_TYPES: Final = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_TEXT_TYPES: Final = {1, 2, 6, 7}  # bytes, which do not become Python objects one by one

#: Accepted compressions: those used for pictures. Others would need further decoders. They are none, three of fax, LZW,
#: two of JPEG, two of deflate, PackBits, and none again with padded rows.
_COMPRESSIONS: Final = {1, 2, 3, 4, 5, 6, 7, 8, 32946, 32773, 32771}

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANES = 256, 257, 258, 259, 262, 277, 284
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _SUBSAMPLING = 322, 323, 338, 339, 530
_NEEDED: Final = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANES,
    _TILE_WIDTH, _TILE_HEIGHT, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _SUBSAMPLING,
}  # fmt: skip
#: Photometric interpretations: grey, and luma with two differences of colour.
_GREY, _YCBCR = {0, 1}, 6
_SEPARATE: Final = 2  # each sample in a plane of its own
_SIGNED: Final = 2
#: Meanings of an extra sample that Pillow takes as alpha: premultiplied, plain, and that of Corel Draw.
_ALPHA: Final = {1, 2, 999}
#: Photometric interpretations with alpha: grey, RGB and palettes.
_WITH_ALPHA: Final = {1, 2, 3}


class Tiff(NamedTuple):
    """A TIFF, as it is."""

    picture: bytes
    size: Size
    has_alpha: bool
    needs_libtiff: bool = False  #: Pillow's own decoder, for pictures without compression, would get the samples wrong


def read_tiff(file: File) -> Tiff:
    """Parse the first directory of a TIFF.

    Raises:
        ValueError: the file has no size, or a tag has more than `MAX_TAG_VALUES` numbers.
        struct.error: the file ends before its directory.
        PermanentError: `too_large` or `unsupported_format`.
    """
    tags = _tags(file)
    if (compression := _first(tags, _COMPRESSION, 1)) not in _COMPRESSIONS:
        raise PermanentError("unsupported_format", f"TIFF with compression {compression} is not supported.")
    _check_samples(tags)
    if not (_WIDTH in tags and _HEIGHT in tags):
        raise ValueError("the TIFF has no size")
    (width, *_), (height, *_) = tags[_WIDTH], tags[_HEIGHT]
    tile = [_first(tags, tag) for tag in (_TILE_WIDTH, _TILE_HEIGHT)]
    # Tiles are always decoded whole.
    size = (width, height) if tile[0] * tile[1] <= width * height else (tile[0], tile[1])
    is_subsampled = _first(tags, _PHOTOMETRIC) == _YCBCR and tags.get(_SUBSAMPLING, (1, 1)) != (1, 1)
    return Tiff(file.whole, size, _has_alpha(tags), _first(tags, _PLANES) == _SEPARATE or is_subsampled)


def _check_samples(tags: Mapping[int, tuple[int, ...]]) -> None:
    """Refuse pictures that Pillow would decode to wrong values. It refuses most other unusual samples itself.

    Raises:
        PermanentError: `unsupported_format`.
    """
    photometric, bits = _first(tags, _PHOTOMETRIC), _first(tags, _BITS, 1)
    problem = None
    if _first(tags, _SAMPLE_FORMAT, 1) == _SIGNED and bits < 32:
        problem = f"signed samples of {bits} bits"
    elif _first(tags, _PLANES) == _SEPARATE and photometric == _YCBCR:
        problem = "YCbCr in separate planes"
    elif _first(tags, _PLANES) == _SEPARATE and photometric in _GREY and any(tags.get(_EXTRA_SAMPLES, ())):
        problem = "grey and alpha in separate planes"
    if problem:
        raise PermanentError("unsupported_format", f"TIFF with {problem} is not supported.")


def _first(tags: Mapping[int, tuple[int, ...]], tag: int, default: int = 0) -> int:
    return next(iter(tags.get(tag, ())), default)


def _has_alpha(tags: Mapping[int, tuple[int, ...]]) -> bool:
    photometric, samples = _first(tags, _PHOTOMETRIC), _first(tags, _SAMPLES, 1)
    extra = tags.get(_EXTRA_SAMPLES, ())
    if not extra:
        return photometric == 2 and samples == 4
    return photometric in _WITH_ALPHA and extra[0] in _ALPHA


def _tags(file: File) -> dict[int, tuple[int, ...]]:
    order = "<" if file.copy(0, 2) == b"II" else ">"
    is_big = 43 in file.copy(2, 4)
    offset, head, entry = ("Q", "Q", "HHQ8s") if is_big else ("I", "H", "HHI4s")
    (start,) = file.unpack(order + offset, 8 if is_big else 4)
    (count,) = file.unpack(order + head, start)
    check_count(count, MAX_TAGS, "tags")
    start += struct.calcsize(order + head)
    size = struct.calcsize(order + entry)
    found: dict[int, tuple[int, ...]] = {}
    for number in range(min(count, (len(file) - start) // size)):
        tag, kind, values, inline = file.unpack(order + entry, start + number * size)
        if values > MAX_TAG_VALUES and kind not in _TEXT_TYPES:
            raise ValueError(f"tag {tag} has {values} numbers")
        if tag in _NEEDED and tag not in found and kind in _TYPES:
            found[tag] = _numbers(file, f"{order}{min(values, 8)}{_TYPES[kind]}", inline, order + offset)
    return found


def _numbers(file: File, layout: str, inline: bytes, offset: str) -> tuple[int, ...]:
    if struct.calcsize(layout) <= len(inline):
        return struct.unpack_from(layout, inline)
    return file.unpack(layout, *struct.unpack(offset, inline))
