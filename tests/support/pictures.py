"""Makes pictures with known colours in known places, and inspects the results."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import ExifTags, Image, ImageChops, ImageCms

from pipeline.images.render import render
from pipeline.recipe import Recipe, parse_rendition

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (128, 128, 128)
#: Solid ink on coated paper (ISO 12647-2).
CYAN_INK, MAGENTA_INK = (0, 158, 226), (229, 0, 125)
LIMITS = {"max_pixels": 1_000_000, "max_decoded_pixels": 1_000_000}
ORIENTATION = ExifTags.Base.Orientation


def recipe(*names: str, fit: str = "cover", formats: str = "source") -> Recipe:
    return Recipe(tuple(parse_rendition(name) for name in names), fit, formats)


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def rendered(source: bytes, name: str = "40x40", fit: str = "cover", formats: str = "source") -> Image.Image:
    return Image.open(io.BytesIO(render(source, recipe(name, fit=fit, formats=formats), **LIMITS)[name]))


def corners(width: int = 64, height: int = 64) -> Image.Image:
    """Make a picture of four quarters: red and green above, blue and yellow below."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height))
    image.paste(BLUE, (0, height // 2, width, height))
    image.paste(YELLOW, (width // 2, height // 2, width, height))
    return image


def quarters(image: Image.Image) -> list[tuple[int, ...]]:
    """Return the colours in the middle of the four quarters: top left, top right, bottom left, bottom right."""
    rgb, (width, height) = image.convert("RGB"), image.size
    return [rgb.getpixel((width * x // 4, height * y // 4)) for y in (1, 3) for x in (1, 3)]


def is_near(colour: tuple[int, ...], expected: tuple[int, ...], tolerance: int = 6) -> bool:
    return len(colour) == len(expected) and all(abs(a - b) <= tolerance for a, b in zip(colour, expected, strict=True))


def assert_quarters(image: Image.Image, *expected: tuple[int, ...], tolerance: int = 6) -> None:
    for colour, wanted in zip(quarters(image), expected, strict=True):
        assert is_near(colour, wanted, tolerance), f"{quarters(image)} is not {expected}"


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, *chunks: bytes, bits: int = 8, colours: int = 2, data: bytes = b"") -> bytes:
    """Make a PNG that claims any size; `data` holds its pixels."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + body


def tiled_tiff(side: int) -> bytes:
    """Make a TIFF of one grey pixel in a tile of any size."""
    tags = {256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 134, 325: 9}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + zlib.compress(b"\0")


def icon(picture: bytes, side: int = 0) -> bytes:
    """Make an icon of one picture."""
    entry = struct.pack("<BBBBHHII", side, side, 0, 0, 1, 32, len(picture), 22)
    return b"\0\0\1\0\1\0" + entry + picture


def profile_with_red_and_blue_exchanged() -> bytes:
    """Make an sRGB profile with the primaries of red and blue exchanged."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # The tag directory ends in entries of (signature, offset, size), so exchanging two names is enough.
    return data.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")


def big_jpeg(width: int, height: int, *, is_progressive: bool = False) -> bytes:
    """Make a grey 4:2:0 JPEG of any size without allocating its pixels."""
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG", subsampling="4:2:0"))
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    blocks = -(-width // 16) * -(-height // 16)
    # Each block equals the one before: four of luma and two of chroma, in libjpeg's usual code tables.
    body = b"\x28\xa2\x8a\0" * blocks
    if is_progressive:  # The first pass holds only the blocks' means.
        data[frame + 1] = 0xC2
        data[scan + 12] = 0
        body = bytes(-(-blocks * 12 // 8))
    return bytes(data[: scan + 14]) + body + b"\xff\xd9"


def linear_profile() -> bytes:
    """Make an sRGB profile with linear values."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    start = data.index(b"para") + 8
    return data[:start] + struct.pack(">HHi", 0, 0, 65536) + data[start + 8 :]


def linear_grey_profile() -> bytes:
    """Make a grey profile with linear values."""
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    text = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"g\0" + bytes(78)
    parts = {b"desc": text + bytes(-len(text) % 4), b"wtpt": white, b"kTRC": curve}
    offset, directory, body = 128 + 4 + 12 * len(parts), struct.pack(">I", len(parts)), b""
    for name, part in parts.items():
        directory += name + struct.pack(">II", offset + len(body), len(part))
        body += part
    size = 128 + len(directory) + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + directory + body


def photograph(mode: str, size: tuple[int, int] = (300, 240)) -> Image.Image:
    """Make a picture with gradients, edges and noise in every channel."""
    bands = [
        Image.linear_gradient("L").rotate(90 * n).resize(size).point(lambda value, n=n: (value * (n + 2)) % 256)
        for n in range(len(Image.new(mode, (1, 1)).getbands()))
    ]
    return Image.merge(mode, bands) if len(bands) > 1 else bands[0]


def difference(one: Image.Image, other: Image.Image) -> int:
    assert (one.mode, one.size) == (other.mode, other.size)
    return max(band.getextrema()[1] for band in ImageChops.difference(one, other).split())
