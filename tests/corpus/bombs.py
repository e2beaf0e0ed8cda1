"""Files with as many parts as their size allows: one generator for each container and each count in it.

Each takes a number of bytes and returns a file of about that size. Most are refused. None may take more than a multiple
of its size, in memory or in time: `python -m tests.corpus.amplify` prints a table, and fails if one does.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Final

from PIL import Image

Bomb = Callable[[int], bytes]


def picture(name: str, mode: str = "RGB", **options: object) -> bytes:
    """Return a small picture."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert(mode).save(buffer, name, **options)
    return buffer.getvalue()


# PNG


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks: bytes, after: bytes = b"", kind: int = 2, width: int = 64) -> bytes:
    """Return a PNG with chunks before and after its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 64, 8, kind, 0, 0, 0))
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[kind]
    pixels = chunk(b"IDAT", zlib.compress(bytes((1 + width * channels) * 64)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + after + chunk(b"IEND")


def repeated(part: bytes, size: int) -> bytes:
    return part * (size // len(part))


def png_inflated_text(size: int) -> bytes:
    bomb = b"a\0\0" + zlib.compress(bytes(1 << 22))
    return png(repeated(chunk(b"zTXt", bomb), size))


def png_profile(size: int) -> bytes:
    return png(chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(size * 900))))


def png_pieces(size: int) -> bytes:
    whole = zlib.compress(bytes((1 + 64 * 3) * 64), 0)
    pieces = b"".join(chunk(b"IDAT", whole[at : at + 1]) for at in range(len(whole)))
    return png()[:33] + repeated(chunk(b"IDAT"), size - len(pieces)) + pieces + chunk(b"IEND")


def png_frames(size: int) -> bytes:
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 64, 0, 0, 1, 1, 0, 0))
    frame = chunk(b"fdAT", bytes(4))
    return png(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), control, after=repeated(frame, size))


# JPEG


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg(extra: bytes) -> bytes:
    return picture("JPEG")[:2] + extra + picture("JPEG")[2:]


def jpeg_scans(size: int) -> bytes:
    data = picture("JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:-2] + repeated(data[at:-2], size) + data[-2:]


def jpeg_profile(size: int) -> bytes:
    parts = (b"ICC_PROFILE\0" + bytes([n % 255 + 1, 255]) + bytes(60_000) for n in range(size // 60_000))
    return jpeg(b"".join(segment(0xE2, part) for part in parts))


# GIF


def gif(extra: bytes, after: bytes = b"") -> bytes:
    data = picture("GIF", "P")
    at = data.index(b",", 13 + 3 * (2 << (data[10] & 7)) if data[10] & 0x80 else 13)
    return data[:at] + extra + data[at:-1] + after + b";"


def sub_blocks(length: int, size: int) -> bytes:
    return repeated(bytes([length]) + b"c" * length, size) + b"\0"


# WebP


def webp_chunk(name: bytes, data: bytes = b"") -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def webp(before: bytes = b"", after: bytes = b"", flags: int = 0) -> bytes:
    head = webp_chunk(b"VP8X", struct.pack("<BxxxHBHB", flags, 63, 0, 63, 0))
    body = b"WEBP" + head + before + picture("WEBP")[12:] + after
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_frames(size: int) -> bytes:
    frame = webp_chunk(b"ANMF", struct.pack("<HBHBHBHBHBB", 0, 0, 0, 0, 63, 0, 63, 0, 1, 0, 0) + picture("WEBP")[12:])
    head = webp_chunk(b"VP8X", struct.pack("<BxxxHBHB", 2, 63, 0, 63, 0)) + webp_chunk(b"ANIM", bytes(6))
    body = b"WEBP" + head + repeated(frame, size)
    return b"RIFF" + struct.pack("<I", len(body)) + body


# TIFF


def tiff(entries: list[tuple[int, int, int, int]], body: bytes = b"", *, is_big: bool = False, count: int = 0) -> bytes:
    """Return a TIFF of 64 x 64 grey pixels with more tags: number, type, count of values, and value or offset."""
    pixels = bytes(64 * 64)
    start = (16 if is_big else 8) + len(pixels) + len(body)
    strip = start - len(pixels) - len(body)
    usual = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 273: strip, 277: 1, 278: 64, 279: len(pixels)}
    known = {entry[0] for entry in entries}
    every = [(tag, 4, 1, value) for tag, value in usual.items() if tag not in known] + entries
    layout, number = ("<HHQQ", "<Q") if is_big else ("<HHII", "<H")
    head = struct.pack(number, count or len(every))
    opening = b"II" + (struct.pack("<HHHQ", 43, 8, 0, start) if is_big else struct.pack("<HI", 42, start))
    return opening + pixels + body + head + b"".join(struct.pack(layout, *entry) for entry in every) + bytes(8)


def tiff_entries(size: int, *, is_big: bool) -> bytes:
    most = size // (20 if is_big else 12)
    return tiff([(40_000 + n % 20_000, 3, 1, 0) for n in range(most if is_big else min(most, 65_000))], is_big=is_big)


def tiff_shared(size: int) -> bytes:
    return tiff([(40_000 + n, 1, size, 8) for n in range(4_000)], bytes(size))


def tiff_strips(size: int) -> bytes:
    count = min(size // 8, 65_000)
    offsets = struct.pack("<I", 8) * count
    lengths = struct.pack("<I", 64) * count
    at = 8 + 64 * 64
    rows = [(257, 4, 1, count), (273, 4, count, at), (278, 4, 1, 1), (279, 4, count, at + len(offsets))]
    return tiff(rows, offsets + lengths + bytes(max(0, size - 8 * count)))


def tiff_profile(size: int) -> bytes:
    return tiff([(34675, 7, size, 8 + 64 * 64)], bytes(size))


def tiff_numbers(size: int) -> bytes:
    count = min(size // 2, 262_144)
    return tiff([(40_000, 3, count, 8 + 64 * 64)], bytes(size))


# BMP and ICO


def bmp_runs(size: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, 4000, 4000, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<III", 54 + 1024 + size, 0, 54 + 1024) + head + bytes(1024) + repeated(b"\1\7", size)


def icon(count: int, pictures: bytes, *, length: int) -> bytes:
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, length, 6 + 16 * count)
    return struct.pack("<HHH", 0, 1, count) + entry * count + pictures


# AVIF


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, version: int, *parts: bytes, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


FTYP: Final = box(b"ftyp", b"avif\0\0\0\0avifmif1miaf")
HDLR: Final = full(b"hdlr", 0, bytes(4), b"pict", bytes(13))
ISPE: Final = full(b"ispe", 0, struct.pack(">II", 64, 64))


def avif(
    *,
    items: bytes = b"",
    count: int = 1,
    iloc: bytes = b"",
    properties: bytes = b"",
    ipma: bytes = b"",
    more: bytes = b"",
) -> bytes:
    """Return an AVIF with a primary item of 64 x 64 pixels that has no pixels."""
    first = full(b"infe", 2, struct.pack(">HH4sx", 1, 0, b"av01"))
    locations = iloc or full(b"iloc", 0, struct.pack(">BBHHHHII", 0x44, 0, 1, 1, 0, 1, 8, 16))
    associations = ipma or full(b"ipma", 0, struct.pack(">IHBB", 1, 1, 1, 1))
    information = full(b"iinf", 1, struct.pack(">I", count), first, items)
    described = box(b"iprp", box(b"ipco", ISPE, properties), associations)
    return FTYP + full(b"meta", 0, HDLR, full(b"pitm", 0, b"\0\1"), locations, information, described, more)


def avif_items(size: int) -> bytes:
    item = full(b"infe", 2, struct.pack(">HH4sx", 2, 0, b"av01"))
    count = size // len(item)
    items = b"".join(full(b"infe", 3, struct.pack(">IH4sx", 2 + n, 0, b"av01")) for n in range(count))
    return avif(items=items, count=count + 1)


def avif_extents(size: int) -> bytes:
    count = min(size // 6, 65_535)
    entries = b"".join(struct.pack(">HHH", 1 + n % 65_000, 0, 65_535) for n in range(count))
    return avif(iloc=full(b"iloc", 0, struct.pack(">BBH", 0, 0, count), entries)) + bytes(max(0, size - 6 * count))


def avif_extents_accepted(size: int) -> bytes:
    return avif(iloc=full(b"iloc", 0, struct.pack(">BBHHHH", 0, 0, 1, 1, 0, 32_000))) + bytes(size)


def avif_items_accepted(size: int) -> bytes:
    items = b"".join(full(b"infe", 2, struct.pack(">HH4sx", 2 + n, 0, b"av01")) for n in range(8_000))
    return avif(items=items, count=8_001) + bytes(size)


def avif_associations(size: int) -> bytes:
    entry = b"".join(struct.pack(">HB", 1 + n, 255) + b"\1" * 255 for n in range(min(size // 258, 60_000)))
    return avif(ipma=full(b"ipma", 0, struct.pack(">I", min(size // 258, 60_000)), entry))


def avif_references(size: int) -> bytes:
    links = b"".join(box(b"thmb", struct.pack(">HHH", 2 + n % 60_000, 1, 1)) for n in range(size // 14))
    return avif(more=full(b"iref", 0, links))


def avif_exif(size: int) -> bytes:
    """Return an AVIF with a large Exif block of many tags."""
    entries = size // 12 % 65_000
    tags = b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + struct.pack("<HHII", 0x8769, 4, 1, 8) * entries
    return picture("AVIF", exif=b"Exif\0\0" + tags.ljust(size, b"\0"))


def avif_samples(size: int) -> bytes:
    """Return a sequence with a size for each of many samples."""
    sizes = full(b"stsz", 0, struct.pack(">II", 0, size // 4), bytes(size // 4 * 4))
    return FTYP + box(b"moov", box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", sizes)))))


def avif_samples_declared(size: int, declared: int) -> bytes:
    """Return a sequence that declares many samples in a few bytes: all in one chunk, and of one byte each."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "AVIF", save_all=True, append_images=frames[1:])
    data = bytearray(buffer.getvalue())
    for table, offset, values in (
        (b"stsz", 8, (1, declared)),
        (b"stsc", 16, (declared,)),
        (b"stts", 12, (declared,)),
    ):
        struct.pack_into(f">{len(values)}I", data, data.index(table) + offset, *values)
    return bytes(data) + bytes(size)


def avif_entries(size: int) -> bytes:
    entry = box(b"av01", bytes(78))
    table = box(b"stbl", full(b"stsd", 0, struct.pack(">I", size // len(entry)), repeated(entry, size)))
    header = full(b"tkhd", 0, bytes(8), struct.pack(">I", 1), bytes(60), struct.pack(">II", 64 << 16, 64 << 16))
    moov = box(b"moov", box(b"trak", header, box(b"mdia", box(b"minf", table))))
    return box(b"ftyp", b"avis\0\0\0\0avisavifmif1miaf") + moov


def ipma(entries: bytes, count: int) -> bytes:
    """Return a table of the properties of items, whose ids take four bytes."""
    return full(b"ipma", 1, struct.pack(">I", count), entries)


FIRST_ITEM: Final = ipma(struct.pack(">IBB", 1, 1, 1), 1)


def avif_unused_items(size: int) -> bytes:
    """Return an AVIF with many tables of items that have no properties."""
    tables = (
        ipma(b"".join(struct.pack(">IB", 2 + n, 0) for n in range(start, start + 4_000)), 4_000)
        for start in range(0, size // 5, 4_000)
    )
    return avif(ipma=FIRST_ITEM, more=b"".join(box(b"iprp", table) for table in tables))


def avif_tables(size: int) -> bytes:
    """Return an AVIF with some items, and many tables without items after them."""
    items = ipma(b"".join(struct.pack(">IB", 2 + n, 0) for n in range(4_000)), 4_000)
    return avif(ipma=FIRST_ITEM + items, more=repeated(box(b"iprp", ipma(b"", 0) * 4_000), size))


def avif_containers(size: int) -> bytes:
    """Return an AVIF with many containers of properties."""
    containers = repeated(box(b"ipco", box(b"free") * 4_000), size)
    return avif(more=box(b"iprp", containers))


def avif_tracks(size: int) -> bytes:
    """Return a sequence with a tree of empty boxes in its track."""
    tree = repeated(box(b"mdia", box(b"free") * 4_000), size)
    return avif().replace(b"avif\0\0\0\0avif", b"avis\0\0\0\0avif", 1) + box(b"moov", box(b"trak", box(b"mdia", tree)))


def avif_alpha(size: int) -> bytes:
    """Return an AVIF with one large property that an auxiliary item has many times."""
    links = full(b"iref", 0, box(b"auxl", struct.pack(">HHH", 2, 1, 1)))
    named = b"".join(struct.pack(">IB", 2, 255) + b"\2" * 255 for _ in range(120))
    return avif(properties=full(b"auxC", 0, bytes(size)), ipma=FIRST_ITEM + ipma(named, 120), more=links)


def png_frames_accepted(size: int) -> bytes:
    """Return an animation whose first frame has as many chunks as are accepted."""
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 64, 0, 0, 1, 1, 0, 0))
    pixels = zlib.compress(bytes((1 + 64 * 3) * 64)) + bytes(size)
    length = -(-len(pixels) // 39_000)
    frame = b"".join(chunk(b"fdAT", bytes(4) + pixels[at : at + length]) for at in range(0, len(pixels), length))
    head = chunk(b"acTL", struct.pack(">II", 2, 0))
    return png(head, after=control + frame)


def jpeg_tables_accepted(size: int) -> bytes:
    """Return a JPEG with as many tables as are accepted."""
    return jpeg(segment(0xDB, bytes(65)) * 30_000 + segment(0xFE, bytes(60_000)) * ((size - 30_000 * 69) // 60_000))


BOMBS: Final[dict[str, Bomb]] = {
    "PNG: chunks": lambda size: png(repeated(chunk(b"tEXt"), size)),
    "PNG: texts that inflate": png_inflated_text,
    "PNG: transparency": lambda size: png(chunk(b"tRNS", bytes(size))),
    "PNG: transparency of a palette": lambda size: png(chunk(b"PLTE", bytes(768)), chunk(b"tRNS", bytes(size)), kind=3),
    "PNG: transparencies": lambda size: png(repeated(chunk(b"tRNS", bytes(6)), size)),
    "PNG: palette": lambda size: png(chunk(b"PLTE", bytes(size // 3 * 3)), kind=3),
    "PNG: palettes": lambda size: png(repeated(chunk(b"PLTE", bytes(768)), size), kind=3),
    "PNG: profile": lambda size: png_profile(min(size, 60_000)),
    "PNG: profiles": lambda size: png(repeated(chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(1 << 20))), size)),
    "PNG: pieces of pixels": png_pieces,
    "PNG: frames": png_frames,
    "PNG: frames, as many as accepted": png_frames_accepted,
    "PNG: after its end": lambda size: png() + bytes(size),
    "JPEG: segments": lambda size: jpeg(repeated(segment(0xFE, b""), size)),
    "JPEG: comments": lambda size: jpeg(repeated(segment(0xFE, bytes(60_000)), size)),
    "JPEG: profile": lambda size: jpeg(
        b"".join(
            segment(0xE2, b"ICC_PROFILE\0" + bytes([n % 255 + 1, 255]) + bytes(60_000)) for n in range(size // 60_000)
        )
    ),
    "JPEG: tables": lambda size: jpeg(repeated(segment(0xDB, bytes(65)), size)),
    "JPEG: tables, as many as accepted": jpeg_tables_accepted,
    "JPEG: passes": jpeg_scans,
    "JPEG: padding": lambda size: jpeg(b"\xff" * size),
    "GIF: comment": lambda size: gif(b"!\xfe" + sub_blocks(255, size)),
    "GIF: comment of tiny parts": lambda size: gif(b"!\xfe" + sub_blocks(1, size)),
    "GIF: comments": lambda size: gif(repeated(b"!\xfe\1c\0", size)),
    "GIF: extensions": lambda size: gif(repeated(b"!\xff\0", size)),
    "GIF: transparent colours": lambda size: gif(repeated(b"!\xf9\4\1\0\0\0\0", size)),
    "GIF: noise before its picture": lambda size: gif(b"\1" * size),
    "GIF: frames": lambda size: gif(b"", repeated(b",\0\0\0\0\1\0\1\0\0\2\2\x44\1\0", size)),
    "WebP: chunks": lambda size: webp(repeated(webp_chunk(b"junk"), size)),
    "WebP: Exif": lambda size: webp(after=webp_chunk(b"EXIF", bytes(size)), flags=8),
    "WebP: profile": lambda size: webp(webp_chunk(b"ICCP", bytes(size)), flags=32),
    "WebP: XMP": lambda size: webp(after=webp_chunk(b"XMP ", b" " * size), flags=4),
    "WebP: frames": webp_frames,
    "TIFF: tags": lambda size: tiff_entries(size, is_big=False),
    "TIFF: tags of a BigTIFF": lambda size: tiff_entries(size, is_big=True),
    "TIFF: tags declared": lambda size: tiff([], bytes(size), is_big=True, count=2**60),
    "TIFF: tags that share their data": tiff_shared,
    "TIFF: strips": tiff_strips,
    "TIFF: numbers": tiff_numbers,
    "TIFF: profile": tiff_profile,
    "BMP: runs": bmp_runs,
    "ICO: entries": lambda size: icon(min(size // 16, 65_535), png(), length=len(png())),
    "ICO: chunks": lambda size: icon(1, png(repeated(chunk(b"tEXt"), size)), length=size),
    "ICO: after its picture": lambda size: icon(1, png() + bytes(size), length=size),
    "AVIF: items": avif_items,
    "AVIF: items, as many as accepted": avif_items_accepted,
    "AVIF: extents": avif_extents,
    "AVIF: extents, as many as accepted": avif_extents_accepted,
    "AVIF: properties": lambda size: avif(properties=repeated(box(b"free"), size)),
    "AVIF: properties of items": avif_associations,
    "AVIF: references": avif_references,
    "AVIF: items without properties": avif_unused_items,
    "AVIF: tables of items": avif_tables,
    "AVIF: containers of properties": avif_containers,
    "AVIF: alpha": avif_alpha,
    "AVIF: tracks": avif_tracks,
    "AVIF: boxes": lambda size: FTYP + repeated(box(b"free"), size),
    "AVIF: boxes in a box": lambda size: avif(more=repeated(box(b"free"), size)),
    "AVIF: Exif": avif_exif,
    "AVIF: XMP": lambda size: picture("AVIF", xmp=b" " * size),
    "AVIF: profile": lambda size: picture("AVIF", icc_profile=bytes(size)),
    "AVIF: samples": avif_samples,
    "AVIF: samples declared": lambda size: avif_samples_declared(size, 2_500_000),
    "AVIF: codecs": avif_entries,
}
