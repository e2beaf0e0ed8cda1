"""AVIF (ISO/IEC 14496-12 and 23008-12): its boxes, the size of its still picture, and no metadata.

libavif searches all items for each item, and allocates memory for each extent, property and sample that a file
declares, although some of them take no bytes. So this reader counts them first, except for samples: the decoder never
sees the tracks of a sequence, whose first frame is also its still picture. Exif and XMP are hidden too, so that no
library reads them: the orientation of an AVIF is a property of its picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipeline.errors import PermanentError
from pipeline.images.containers.model import File, Size

#: Maximum parts of a file. A grid of 50 megapixels has about 100 items of 15 parts each. libavif takes 0.2 s for as
#: many items as fit.
MAX_PARTS: Final = 32_768

#: Maximum bytes of the list of brands. A brand takes four; real files have fewer than ten.
MAX_BRAND_BYTES: Final = 512

_ALPHA: Final = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")
_LONGEST_ALPHA: Final = max(map(len, _ALPHA))
#: Types of items that hold metadata, and the type that hides them. Readers ignore unknown types.
_METADATA: Final = (b"Exif", b"mime")
_IGNORED: Final = b"skip"
#: Brands of a file: of a sequence, which must have tracks, and of a still picture.
_SEQUENCE: Final = b"avis"
_STILL: Final = b"avif"


class Box(NamedTuple):
    """A part of the file with a type; its content is from `start` to `end`."""

    kind: bytes
    kind_at: int  #: offset of the type
    start: int
    end: int


class Avif(NamedTuple):
    """An AVIF whose metadata and tracks are to be ignored."""

    source: bytes
    size: Size
    has_alpha: bool
    changes: dict[int, bytes]  #: what makes libraries ignore them: four bytes each, by offset
    colours: tuple[int, int] | None = None  #: code points of the primaries and the transfer curve (ITU-T H.273)

    @property
    def first_frame(self) -> bytes:
        """The file without metadata and tracks, of which its still picture is left."""
        if not self.changes:
            return self.source
        changed = bytearray(self.source)
        for offset, value in self.changes.items():
            changed[offset : offset + 4] = value
        return bytes(changed)


@dataclass
class _Items:
    """The contents of a `meta` box."""

    primary: int = 0
    metadata: list[int] = field(default_factory=list)  #: offsets of the types of items that hold metadata
    properties: list[Box] = field(default_factory=list)
    associations: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    auxiliary: set[int] = field(default_factory=set)  #: items that belong to another

    def property_of(self, item: int, kind: bytes) -> Iterator[Box]:
        """Yield the properties of an item that have a type."""
        for index in self.associations[item]:
            if 1 <= index <= len(self.properties) and self.properties[index - 1].kind == kind:
                yield self.properties[index - 1]


def read_avif(file: File) -> Avif:
    """Parse the boxes of an AVIF.

    Raises:
        ValueError: the file has no picture, or a box is broken.
        IndexError: a box is too short.
        struct.error: a box is too short.
        PermanentError: `too_large`, or `unsupported_format` for a sequence without a still picture.
    """
    file.limit_parts(MAX_PARTS)
    items, has_tracks = _Items(), False
    changes: dict[int, bytes] = {}
    for box in _top_level(file):
        if box.kind == b"ftyp":
            changes |= dict.fromkeys(_sequence_brands(file, box), _STILL)
        elif box.kind == b"meta":
            items = _items(file, box)
            changes |= dict.fromkeys(items.metadata, _IGNORED)
        elif box.kind == b"moov":
            has_tracks = True
            changes[box.kind_at] = _IGNORED
    for box in items.property_of(items.primary, b"ispe"):
        width, height = file.unpack(">II", box.start + 4)
        return Avif(file.whole, (width, height), _has_alpha(file, items), changes, _colours(file, items))
    if has_tracks:
        raise PermanentError("unsupported_format", "AVIF sequences without a still picture are not supported.")
    raise ValueError("the AVIF has no picture")


def _sequence_brands(file: File, ftyp: Box) -> Iterator[int]:
    """Yield the offsets of the brands that make libavif look for tracks: the major brand, or one after its version.

    Raises:
        PermanentError: `too_large`; libavif would keep every brand.
    """
    if (length := ftyp.end - ftyp.start) > MAX_BRAND_BYTES:
        message = f"The AVIF lists brands in {length} bytes; {MAX_BRAND_BYTES} are accepted."
        raise PermanentError("too_large", message)
    for at in (ftyp.start, *range(ftyp.start + 8, ftyp.end - 3, 4)):
        if file.copy(at, at + 4) == _SEQUENCE:
            yield at


def _has_alpha(file: File, items: _Items) -> bool:
    return any(
        file.copy(each.start + 4, min(each.end, each.start + 4 + _LONGEST_ALPHA)).startswith(_ALPHA)
        for item in items.auxiliary
        for each in items.property_of(item, b"auxC")
    )


def _colours(file: File, items: _Items) -> tuple[int, int] | None:
    for box in items.property_of(items.primary, b"colr"):
        if file.copy(box.start, box.start + 4) == b"nclx":
            primaries, curve = file.unpack(">HH", box.start + 4)
            return primaries, curve
    return None


def _top_level(file: File) -> Iterator[Box]:
    """Yield the boxes of the file. Like libavif, stop at a box that does not fit: it may be other data."""
    with suppress(ValueError):
        yield from _boxes(file, 0, len(file))


def _boxes(file: File, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes in a part of the file.

    Raises:
        ValueError: a box is longer than its surroundings.
        PermanentError: `too_large`.
    """
    while start + 8 <= end:
        size, kind = file.unpack(">I4s", start)
        head = 8
        if size == 1:
            (size,) = file.unpack(">Q", start + 8)
            head = 16
        size = size or end - start  # 0 means to the end
        if size < head or start + size > end:
            raise ValueError(f"a box of {size} bytes does not fit")
        yield Box(kind, start + 4, start + head, start + size)
        start += size


def _items(file: File, meta: Box) -> _Items:
    items = _Items()
    for kind, _, start, end in _boxes(file, meta.start + 4, meta.end):
        version = file.byte(start)
        if kind == b"pitm":
            (items.primary,) = file.unpack(">I" if version else ">H", start + 4)
        elif kind == b"iinf":
            items.metadata += _metadata(file, start, end)
        elif kind == b"iloc":
            _count_extents(file, start)
        elif kind == b"iref":
            items.auxiliary |= _auxiliary(file, start, end)
        elif kind == b"iprp":
            _read_properties(file, start, end, items)
    return items


def _metadata(file: File, start: int, end: int) -> Iterator[int]:
    """Yield the offsets of the types of items that hold metadata."""
    for box in _boxes(file, start + (8 if file.byte(start) else 6), end):
        kind_at = box.start + (10 if file.byte(box.start) > 2 else 8)  # after the id, of 4 or 2 bytes, and an index
        if kind_at + 4 <= box.end and file.copy(kind_at, kind_at + 4) in _METADATA:
            yield kind_at


def _count_extents(file: File, start: int) -> None:
    """Count the extents of all items. An extent may take no bytes at all."""
    version, sizes, more_sizes = file.unpack(">B3xBB", start)
    count_format, id_size = (">I", 4) if version > 1 else (">H", 2)
    (count,) = file.unpack(count_format, start + 6)
    at = start + 6 + id_size
    index_size = more_sizes & 15 if version else 0
    extent_size = (sizes >> 4) + (sizes & 15) + index_size
    before = id_size + (2 if version else 0) + 2 + (more_sizes >> 4)
    for _ in range(count):
        (extents,) = file.unpack(">H", at + before)
        file.spend(extents)
        at += before + 2 + extents * extent_size


def _auxiliary(file: File, start: int, end: int) -> set[int]:
    """Return the items that belong to another one, as alpha does. Count the references of all items."""
    id_format = "I" if file.byte(start) else "H"
    found = set()
    for box in _boxes(file, start + 4, end):
        item, count = file.unpack(f">{id_format}H", box.start)
        file.spend(count)
        if box.kind == b"auxl":
            found.add(item)
    return found


def _read_properties(file: File, start: int, end: int, items: _Items) -> None:
    for kind, _, inner, inner_end in _boxes(file, start, end):
        if kind == b"ipco":
            items.properties += _boxes(file, inner, inner_end)
        elif kind == b"ipma":
            _read_associations(file, inner, items)


def _read_associations(file: File, start: int, items: _Items) -> None:
    version, flags, count = file.unpack(">B2xBI", start)
    head, head_size = (">IB", 5) if version else (">HB", 3)
    kind, mask, size = ("H", 0x7FFF, 2) if flags & 1 else ("B", 0x7F, 1)
    at = start + 8
    for _ in range(count):
        item, number = file.unpack(head, at)
        indexes = file.unpack(f">{number}{kind}", at + head_size)
        at += head_size + number * size
        items.associations[item] += [index & mask for index in indexes]
