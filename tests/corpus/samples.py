"""Generates a small corpus: every kind of cover, and other untrusted files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageCms, PngImagePlugin
from PIL.ExifTags import GPS, IFD, Base

from tests.corpus.child import Kind

SIZE: Final = (120, 90)
FORMATS: Final = {
    "JPEG": "jpg",
    "PNG": "png",
    "GIF": "gif",
    "WEBP": "webp",
    "AVIF": "avif",
    "BMP": "bmp",
    "TIFF": "tif",
}
OWN_OUTPUT: Final = ("JPEG", "PNG", "GIF", "WEBP")
MODES: Final = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "GIF": ("1", "L", "P", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
}

#: Options of save() for special kinds of files, by format and a descriptive word.
VARIANTS: Final[Mapping[tuple[str, str], Mapping[str, Any]]] = {
    ("JPEG", "progressive"): {"progressive": True},
    ("JPEG", "restarts"): {"restart_marker_blocks": 1},
    ("JPEG", "full-colour"): {"subsampling": 0},
    ("WEBP", "lossless"): {"lossless": True},
    ("AVIF", "full-colour"): {"subsampling": "4:4:4"},
    ("TIFF", "deflate"): {"compression": "tiff_deflate"},
    ("TIFF", "jpeg"): {"compression": "jpeg"},
}  # fmt: skip


def picture(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """Return a gradient that becomes transparent to the right if the mode has alpha."""
    across, down = Image.linear_gradient("L").rotate(90).resize(size), Image.linear_gradient("L").resize(size)
    if mode.endswith("A"):
        return Image.merge("RGBA", (across, down, across, across)).convert(mode)
    if mode in ("I;16", "I", "F"):
        return across.convert("I").point(lambda value: value * 257).convert(mode)
    image = Image.merge("RGB", (across, down, across))
    if mode != "LAB":
        return image.convert(mode)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image, *profiles, outputMode="LAB") or image


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    """Encode the image in the Pillow format of that name."""
    buffer = BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def exif(orientation: int = 1) -> Image.Exif:
    """Return EXIF data that includes a location."""
    data = Image.Exif()
    data[Base.Orientation] = orientation
    data[Base.ImageDescription] = "at home"
    data.get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] = (52.0, 31.0, 0.0)
    return data


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colours: int = 2, pixels: bytes = b"") -> bytes:
    """Return a PNG with arbitrary claims in its header."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    body = b"".join(chunks) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


def tiff(**tags: int) -> bytes:
    """Return a one-pixel grey TIFF with arbitrary tags, named as in PIL.ExifTags.Base."""
    plain = {
        "ImageWidth": 1, "ImageLength": 1, "BitsPerSample": 8, "Compression": 1, "PhotometricInterpretation": 1,
        "StripOffsets": 8, "SamplesPerPixel": 1, "RowsPerStrip": 1, "StripByteCounts": 1,
    }  # fmt: skip
    values = sorted((Base[name], value) for name, value in (plain | tags).items())
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values)
    return (
        b"II*\0" + struct.pack("<I", 16) + b"\x80".ljust(8, b"\0") + struct.pack("<H", len(values)) + entries + bytes(4)
    )


def icon(picture: bytes, *, count: int = 1, side: int = 0) -> bytes:
    """Return an icon with one picture."""
    entry = struct.pack("<BBBBHHII", side, side, 0, 0, 1, 32, len(picture), 22)
    return struct.pack("<HHH", 0, 1, count) + entry + picture


def good() -> Iterator[tuple[str, bytes, str]]:
    """Yield good files: name, content, and the format of the renditions."""
    for format_, extension in FORMATS.items():
        for mode in MODES[format_]:
            image = picture(mode)
            output = format_ if format_ in OWN_OUTPUT else "PNG" if mode.endswith("A") else "JPEG"
            yield f"{mode.replace(';', '-')}.{extension}", encoded(image, format_), output
        output = format_ if format_ in OWN_OUTPUT else "JPEG"
        for width, height in ((1, 1), (1, 2_000), (2_000, 1)):
            yield f"{width}x{height}.{extension}", encoded(picture(size=(width, height)), format_), output
        for (of_format, word), options in VARIANTS.items():
            if of_format == format_:
                yield f"{word}.{extension}", encoded(picture(), format_, **options), output
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for format_ in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
        output = format_ if format_ in OWN_OUTPUT else "JPEG"
        for orientation in (*range(1, 9), 99):
            data = encoded(picture(), format_, exif=exif(orientation), icc_profile=profile)
            yield f"orientation-{orientation}.{FORMATS[format_]}", data, output
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "at home" * 99, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    yield "text.png", encoded(picture(), "PNG", pnginfo=text), "PNG"
    yield "comment.jpg", encoded(picture(), "JPEG", comment="at home"), "JPEG"
    yield "comment.gif", encoded(picture("P"), "GIF", comment=b"at home"), "GIF"
    yield "palette-with-a-hole.png", encoded(picture("P"), "PNG", transparency=3), "PNG"
    yield "palette-with-a-hole.gif", encoded(picture("P"), "GIF", transparency=3), "GIF"
    frames = [picture(), picture("L").convert("RGB"), picture().transpose(Image.Transpose.ROTATE_180)]
    for format_, name in {
        "GIF": "gif",
        "WEBP": "webp",
        "PNG": "png",
        "AVIF": "avif",
        "TIFF": "tif",
        "MPO": "jpg",
    }.items():
        data = encoded(frames[0], format_, save_all=True, append_images=frames[1:])
        yield f"frames.{name}", data, format_ if format_ in OWN_OUTPUT else "JPEG"
    for side in (16, 256):
        yield f"{side}.ico", encoded(picture("RGBA", (side, side)), "ICO", sizes=[(side, side)]), "PNG"
        yield f"bitmap-{side}.ico", encoded(picture("RGBA", (side, side)), "ICO", bitmap_format="bmp"), "PNG"


def bad() -> Iterator[tuple[str, bytes, str]]:
    """Yield bad files: name, content, and the error code."""
    for format_, extension in FORMATS.items():
        data = encoded(picture(), format_)
        yield f"half.{extension}", data[: len(data) // 2], "broken_image"
        yield f"beginning.{extension}", data[:16], "broken_image"
    yield "empty.jpg", b"", "not_an_image"
    yield "zeros.jpg", bytes(5000), "not_an_image"
    yield "page.jpg", b"<!DOCTYPE html><title>404</title>", "not_an_image"
    yield "drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"
    yield "paper.pdf", b"%PDF-1.7\n", "unsupported_format"
    yield "program.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported_format"
    yield "photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_format"
    yield "many-pixels.png", png(65_535, 65_535), "too_large"
    yield "more-than-is-decoded.png", png(10_000, 10_000), "too_large"
    yield "no-pixels.png", png(0, 0), "broken_image"
    yield "no-such-depth.png", png(9, 9, bits=7), "broken_image"
    yield "text-bomb.png", png(9, 9, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20)))] * 99), "broken_image"
    yield "many-pixels.tif", tiff(ImageWidth=65_535, ImageLength=65_535), "too_large"
    yield "large-tile.tif", tiff(TileWidth=65_536, TileLength=65_536, TileOffsets=8, TileByteCounts=1), "too_large"
    yield "many-samples.tif", tiff(SamplesPerPixel=65_535), "broken_image"
    screen, frame = struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0), struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0)
    yield "many-pixels.gif", b"GIF89a" + screen + b"," + frame + b"\2\0;", "too_large"
    bitmap = struct.pack("<IIiiHHIIiiII", 54, 40, 60_000, -60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    yield "many-pixels.bmp", b"BM" + bytes(8) + bitmap, "too_large"
    yield "many-pixels.webp", b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\xff\x00" * 2, "too_large"
    yield "large-picture.ico", icon(png(20_000, 20_000)), "too_large"
    yield "large-bitmap.ico", icon(struct.pack("<IiiHHIIiiII", 40, 20_000, 40_000, 1, 32, *[0] * 6)), "broken_image"
    yield "no-picture.ico", icon(b"", count=0), "broken_image"


def write(folder: Path) -> dict[str, tuple[Kind, str]]:
    """Write the small corpus to a folder; returns the expected results by name."""
    expected = {}
    for kind, files in ((Kind.OK, good()), (Kind.REFUSED, bad())):
        for name, data, detail in files:
            (folder / name).write_bytes(data)
            expected[name] = (kind, detail)
    return expected
