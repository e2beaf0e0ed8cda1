"""AVIF (ISO/IEC 14496-12 and 23008-12): its boxes, the size of its picture, and no metadata.

libavif searches all items for each item, and allocates memory for each extent, property and sample that a file
declares, although some of them take no bytes. So this reader counts them first. Exif and XMP are renamed, so that no
library reads them: the orientation of an AVIF is a property of its picture.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipeline.images.containers.model import Size, check_count

#: Maximum boxes in a box, and items, properties and references of a file. A grid of 50 megapixels has about 100 items.
MAX_BOXES: Final = 4_096
#: Maximum extents, and properties of all items together.
MAX_EXTENTS: Final = 16_384
#: Maximum entries of a sequence's tables together, and its samples.
MAX_SAMPLES: Final = 100_000

_ALPHA: Final = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")
#: Types of items that hold metadata, and the type that they get. Readers ignore unknown types.
_METADATA: Final = (b"Exif", b"mime")
_IGNORED: Final = b"skip"


class Box(NamedTuple):
    """A part of the file with a type; its content is from `start` to `end`."""

    kind: bytes
    start: int
    end: int


class Avif(NamedTuple):
    """An AVIF whose metadata is to be ignored."""

    source: bytes
    size: Size
    has_alpha: bool
    metadata: tuple[int, ...]  #: offsets of the types of items that hold metadata

    @property
    def picture(self) -> bytes:
        """The file without metadata."""
        if not self.metadata:
            return self.source
        changed = bytearray(self.source)
        for offset in self.metadata:
            changed[offset : offset + 4] = _IGNORED
        return bytes(changed)


@dataclass
class _Items:
    """The contents of a `meta` box."""

    primary: int = 0
    metadata: list[int] = field(default_factory=list)
    properties: list[Box] = field(default_factory=list)
    associations: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    auxiliary: set[int] = field(default_factory=set)  #: items that belong to another

    def property_of(self, item: int, kind: bytes) -> Iterator[Box]:
        """Yield the properties of an item that have a type."""
        for index in self.associations[item]:
            if 1 <= index <= len(self.properties) and self.properties[index - 1].kind == kind:
                yield self.properties[index - 1]


def read_avif(source: bytes) -> Avif:
    """Parse the boxes of an AVIF.

    Raises:
        ValueError: the file has no picture, or a box is broken.
        IndexError: a box is too short.
        struct.error: a box is too short.
        PermanentError: `too_large`.
    """
    items, tracks = _Items(), _Tracks()
    for box in _top_level(source):
        if box.kind == b"meta":
            items = _items(source, box)
        elif box.kind == b"moov":
            tracks = _tracks(source, box)
    metadata = (*items.metadata, *tracks.metadata)
    if tracks.size and source[8:12] != b"avif":  # as libavif chooses by the major brand
        return Avif(source, tracks.size, tracks.has_alpha, metadata)
    for box in items.property_of(items.primary, b"ispe"):
        has_alpha = any(
            source[each.start + 4 : each.end].startswith(_ALPHA)
            for item in items.auxiliary
            for each in items.property_of(item, b"auxC")
        )
        return Avif(source, struct.unpack_from(">II", source, box.start + 4), has_alpha, metadata)
    raise ValueError("the AVIF has no picture")


def _top_level(source: bytes) -> Iterator[Box]:
    """Yield the boxes of the file. Like libavif, stop at a box that does not fit: it may be other data."""
    with suppress(ValueError):
        yield from _boxes(source, 0, len(source))


def _boxes(source: bytes, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes in a part of the file.

    Raises:
        ValueError: a box is longer than its surroundings.
        PermanentError: `too_large`: there are too many.
    """
    count = 0
    while start + 8 <= end:
        count += 1
        check_count(count, MAX_BOXES, "boxes in a box")
        size, kind = struct.unpack_from(">I4s", source, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", source, start + 8)
            head = 16
        size = size or end - start  # 0 means to the end
        if size < head or start + size > end:
            raise ValueError(f"a box of {size} bytes does not fit")
        yield Box(kind, start + head, start + size)
        start += size


def _items(source: bytes, meta: Box) -> _Items:
    items = _Items()
    for kind, start, end in _boxes(source, meta.start + 4, meta.end):
        version = source[start]
        if kind == b"pitm":
            (items.primary,) = struct.unpack_from(">I" if version else ">H", source, start + 4)
        elif kind == b"iinf":
            items.metadata += _metadata(source, start, end)
        elif kind == b"iloc":
            _check_locations(source, start)
        elif kind == b"iref":
            items.auxiliary |= _auxiliary(source, start, end)
        elif kind == b"iprp":
            _read_properties(source, start, end, items)
    return items


def _metadata(source: bytes, start: int, end: int) -> Iterator[int]:
    """Yield the offsets of the types of items that hold metadata."""
    version = source[start]
    (count,) = struct.unpack_from(">I" if version else ">H", source, start + 4)
    check_count(count, MAX_BOXES, "items")
    for box in _boxes(source, start + (8 if version else 6), end):
        kind_at = box.start + (10 if source[box.start] > 2 else 8)  # after the id, of 4 or 2 bytes, and an index
        if kind_at + 4 <= box.end and source[kind_at : kind_at + 4] in _METADATA:
            yield kind_at


def _check_locations(source: bytes, start: int) -> None:
    """Count the extents of all items. An extent may take no bytes at all."""
    version, sizes, more_sizes = source[start], source[start + 4], source[start + 5]
    count_format, id_size = (">I", 4) if version > 1 else (">H", 2)
    (count,) = struct.unpack_from(count_format, source, start + 6)
    check_count(count, MAX_BOXES, "items")
    at = start + 6 + id_size
    index_size = more_sizes & 15 if version else 0
    extent_size = (sizes >> 4) + (sizes & 15) + index_size
    before = id_size + (2 if version else 0) + 2 + (more_sizes >> 4)
    total = 0
    for _ in range(count):
        (extents,) = struct.unpack_from(">H", source, at + before)
        total += extents
        check_count(total, MAX_EXTENTS, "extents")
        at += before + 2 + extents * extent_size


def _auxiliary(source: bytes, start: int, end: int) -> set[int]:
    """Return the items that belong to another one, as alpha does."""
    id_format = ">I" if source[start] else ">H"
    width = struct.calcsize(id_format)
    found, total = set(), 0
    for box in _boxes(source, start + 4, end):
        (item,) = struct.unpack_from(id_format, source, box.start)
        (count,) = struct.unpack_from(">H", source, box.start + width)
        total += count
        check_count(total, MAX_EXTENTS, "references")
        if box.kind == b"auxl":
            found.add(item)
    return found


def _read_properties(source: bytes, start: int, end: int, items: _Items) -> None:
    for kind, inner, inner_end in _boxes(source, start, end):
        if kind == b"ipco":
            items.properties += _boxes(source, inner, inner_end)
        elif kind == b"ipma":
            _read_associations(source, inner, items)


def _read_associations(source: bytes, start: int, items: _Items) -> None:
    version, is_wide = source[start], source[start + 3] & 1
    (count,) = struct.unpack_from(">I", source, start + 4)
    check_count(count, MAX_BOXES, "items")
    at, total = start + 8, sum(map(len, items.associations.values()))
    for _ in range(count):
        (item,) = struct.unpack_from(">I" if version else ">H", source, at)
        at += 4 if version else 2
        number = source[at]
        total += number
        check_count(total, MAX_EXTENTS, "properties")
        indexes = struct.unpack_from(f">{number}{'H' if is_wide else 'B'}", source, at + 1)
        at += 1 + number * (2 if is_wide else 1)
        items.associations[item] += [index & (0x7FFF if is_wide else 0x7F) for index in indexes]


# Sequences


#: Boxes that contain boxes, between `moov` and the tables of samples.
_PATH: Final = {b"edts", b"mdia", b"minf", b"stbl", b"tref"}
#: Tables of samples, with the offset of the number of entries.
_TABLES: Final = {b"stts": 4, b"ctts": 4, b"stsc": 4, b"stsz": 8, b"stco": 4, b"co64": 4, b"stss": 4, b"elst": 4}
#: Bytes of an entry in a track's description of its codec, before the boxes with its properties.
_SAMPLE_ENTRY: Final = 78


@dataclass
class _Tracks:
    """The contents of a `moov` box."""

    size: Size | None = None  #: of the first track with pictures
    has_alpha: bool = False
    metadata: list[int] = field(default_factory=list)


def _tracks(source: bytes, moov: Box) -> _Tracks:
    tracks = _Tracks()
    for trak in _boxes(source, moov.start, moov.end):
        if trak.kind != b"trak":
            continue
        inside = list(_flat(source, trak.start, trak.end))
        _check_samples(source, inside)
        is_auxiliary = False
        width = height = 0
        for kind, start, end in inside:
            if kind == b"tkhd":
                width, height = struct.unpack_from(">II", source, end - 8)  # in 1/65,536
            elif kind == b"auxl":
                is_auxiliary = tracks.has_alpha = True
            elif kind == b"stsd":
                for entry in _boxes(source, start + 8, end):
                    check_count(
                        sum(1 for _ in _boxes(source, entry.start + _SAMPLE_ENTRY, entry.end)), 64, "properties"
                    )
            elif kind == b"meta":
                tracks.metadata += _items(source, Box(kind, start, end)).metadata
        if not tracks.size and not is_auxiliary:
            tracks.size = (width >> 16, height >> 16)
    return tracks


def _check_codecs(source: bytes, start: int, end: int) -> None:
    """Count the properties of a track's codecs."""
    properties = 0
    for entry in _boxes(source, start + 8, end):
        properties += 1 + sum(1 for _ in _boxes(source, entry.start + _SAMPLE_ENTRY, entry.end))
        check_count(properties, MAX_BOXES, "properties")


def _flat(source: bytes, start: int, end: int) -> Iterator[Box]:
    for box in _boxes(source, start, end):
        yield box
        if box.kind in _PATH:
            yield from _flat(source, box.start, box.end)


def _check_samples(source: bytes, boxes: list[Box]) -> None:
    """Count the entries of a track's tables, and the samples that they describe in a few bytes."""
    entries: Counter[bytes] = Counter()
    in_chunk = 0
    for kind, start, end in boxes:
        if kind in _TABLES:
            (count,) = struct.unpack_from(">I", source, start + _TABLES[kind])
            entries[kind] += count
            check_count(entries.total(), MAX_SAMPLES, "samples")
            if kind == b"stsc":
                chunks = struct.iter_unpack(">III", source[start + 8 : min(end, start + 8 + 12 * count)])
                in_chunk = max([in_chunk, *(samples for _, samples, _ in chunks)])
    check_count(in_chunk * (entries[b"stco"] + entries[b"co64"]), MAX_SAMPLES, "samples")
