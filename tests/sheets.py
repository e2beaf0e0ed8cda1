"""Makes contact sheets for review: renditions of awkward sources next to the expected results.

python -m tests.sheets [folder]    writes orientation.png, colours.png, alpha.png and fit.png; by default to docs/sheets
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageFont

from pipeline.images.colour import press_profile, rgb_profile, srgb_conversion
from pipeline.images.render import render
from tests.support.pictures import encoded, exif, linear_grey_profile, png_chunk, png_header, recipe

SIDE = 112
GAP = 12
LABEL = 92  # minimum width of a cell, in pixels
INK, PAPER = (34, 34, 40), (246, 245, 242)
FONT = ImageFont.load_default(size=12)
LIMITS = {"max_pixels": 10_000_000, "max_decoded_pixels": 10_000_000}

SKY = ((38, 250), (42, 168), (96, 110))  # red, green and blue, from top to bottom
RED = (215, 35, 60)
SWATCHES = [(230, 30, 40), (240, 160, 20), (40, 170, 60), (20, 120, 220), (130, 40, 160)]
SWATCHES += [(value,) * 3 for value in (0, 128, 255)]

Cell = tuple[str, list[Image.Image]]


def cover(width: int = 336, height: int = 336) -> Image.Image:
    """Draw a podcast's cover: evening sky, sun, hill, an F that shows the orientation, strong colours and greys."""
    fades = [Image.linear_gradient("L").point([a + (b - a) * v // 255 for v in range(256)]) for a, b in SKY]
    sky = Image.merge("RGB", fades).resize((width, height))
    draw = ImageDraw.Draw(sky)
    unit = min(width, height) / 16
    draw.ellipse((width - 6 * unit, 5 * unit, width - 2 * unit, 9 * unit), fill=(255, 221, 120))
    ridge = [(0, 10 * unit), (width * 0.45, 8.5 * unit), (width, height * 0.85)]
    draw.polygon([(0, height), *ridge, (width, height)], (43, 92, 66))
    draw.text((1.2 * unit, 0.2 * unit), "F", (255, 255, 255), ImageFont.load_default(size=7 * unit))
    for index, colour in enumerate(SWATCHES):
        left = index * width / len(SWATCHES)
        draw.rectangle((left, height - 2.5 * unit, left + width / len(SWATCHES) - 1, height), fill=colour)
    return sky


def ours(source: bytes, fit: str = "cover", size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    name = f"{size[0]}x{size[1]}"
    return Image.open(io.BytesIO(render(source, recipe(name, fit=fit), **LIMITS)[name]))


def small(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def checked(image: Image.Image, dark: int = 190, light: int = 235) -> Image.Image:
    """Return the image on a chequered background, which shows transparency."""
    ground = Image.new("RGB", image.size, (light,) * 3)
    for y in range(0, image.height, 8):
        for x in range(y // 8 % 2 * 8, image.width, 16):
            ground.paste((dark,) * 3, (x, y, x + 8, y + 8))
    layer = image.convert("RGBA")
    ground.paste(layer, (0, 0), layer)
    return ground


def sheet(title: str, cells: Iterable[Cell], columns: int) -> Image.Image:
    """Return a labelled grid whose cells show their pictures side by side."""
    cells = list(cells)
    wide = [max(LABEL, sum(each.width + 4 for each in pictures)) for _, pictures in cells]
    widths = [max(wide[place::columns]) for place in range(columns)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(each.height for _, pictures in row for each in pictures) + 22 for row in rows]
    page = Image.new("RGB", (sum(widths) + GAP * (columns + 1), sum(heights) + GAP * (len(rows) + 1) + 26), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP - 2), title, INK, ImageFont.load_default(size=15))
    top = GAP + 26
    for row, height in zip(rows, heights, strict=True):
        left = GAP
        for (label, pictures), width in zip(row, widths, strict=False):
            draw.text((left, top), label, INK, FONT)
            at = left
            for picture in pictures:
                page.paste(picture, (at, top + 18))
                at += picture.width + 4
            left += width + GAP
        top += height + GAP
    return page


# Orientation


#: The transposition that makes a picture upright in a viewer that respects the orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def orientation_cells() -> Iterable[Cell]:
    upright, size = cover(240, 160), (84, 56)
    for value, transposition in STORED.items():
        stored = upright if transposition is None else upright.transpose(transposition)
        shown = Image.new("RGB", (size[0], size[0]), PAPER)
        shown.paste(stored.resize(size if stored.width > stored.height else size[::-1]))
        yield f"{value}: as stored", [shown]
        for name in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
            made = ours(encoded(stored, name, exif=exif(value), quality=90), "fill", size)
            yield name, [made.convert("RGB")]


# Colours


SPACES = {
    "Display P3": ((0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060), None),
    "Adobe RGB": ((0.3127, 0.3290, 0.640, 0.330, 0.210, 0.710, 0.150, 0.060), 563 / 256),
    "ProPhoto": ((0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), 1.8),
    "linear": ((0.3127, 0.3290, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060), 1.0),
}


def in_space(image: Image.Image, name: str) -> tuple[Image.Image, bytes]:
    """Convert the image to another colour space; returns it with the profile."""
    profile = rgb_profile(*SPACES[name])
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target, outputMode="RGB"), profile


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    return png[:33] + b"".join(chunks) + png[33:]


def sixteen_bits(image: Image.Image) -> bytes:
    """Encode the image as a PNG with 16 bits per channel."""
    rows = b"".join(
        b"\0" + b"".join(bytes((value, value)) for value in image.crop((0, y, image.width, y + 1)).tobytes())
        for y in range(image.height)
    )
    return png_header(*image.size, bits=16, colours=2 if image.mode == "RGB" else 0, data=rows)


def twelve_bits(image: Image.Image) -> bytes:
    """Encode a grey image as an uncompressed 12-bit TIFF: two pixels in three bytes."""
    grey, body = image.convert("L").tobytes(), bytearray()
    for a, b in zip(grey[::2], grey[1::2], strict=True):
        body += bytes((a, a & 0xF0 | b >> 4, (b & 0xF) << 4 | b >> 4))
    width, height = image.size
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 134, 277: 1, 278: height, 279: len(body)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)).ljust(134, b"\0") + bytes(body)


def separated(image: Image.Image) -> Image.Image:
    """Convert the image to inks: for each of 64 colours, the nearest of 8,788 mixtures on paper."""
    levels = [round(step * 255 / 12) for step in range(13)]
    mixtures = list(product((204, 136, 68, 0), levels, levels, levels))
    inks = Image.frombytes("CMYK", (len(mixtures), 1), bytes(part for k, *rest in mixtures for part in (*rest, k)))
    looks = srgb_conversion("CMYK", None)(inks).tobytes()
    seen = [looks[start : start + 3] for start in range(0, len(looks), 3)]
    indexed = image.quantize(64, dither=Image.Dither.NONE)
    found = []
    for start in range(0, len(indexed.getpalette() or []), 3):
        wanted = indexed.getpalette()[start : start + 3]
        distances = [sum((a - b) ** 2 for a, b in zip(look, wanted, strict=True)) for look in seen]
        found.append(inks.getpixel((distances.index(min(distances)), 0)))
    bands = [indexed.point([colour[band] for colour in found] + [0] * (256 - len(found)), "L") for band in range(4)]
    return Image.merge("CMYK", bands)


def ycck(inks: Image.Image) -> bytes:
    """Encode inks as a YCCK JPEG, as Photoshop writes it."""
    *colours, black = inks.split()
    stored = Image.merge("RGB", colours).convert("YCbCr").split()
    negative = [ImageChops.invert(each) for each in stored]  # Pillow inverts all four when it saves
    data = bytearray(encoded(Image.merge("CMYK", [*negative, black]), "JPEG", quality=95, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def colour_cells() -> Iterable[Cell]:
    picture = cover()
    right, grey = small(picture), picture.convert("L")
    right_grey = small(grey).convert("RGB")
    inks = separated(picture)
    black_and_white = picture.convert("1")

    def cell(label: str, source: bytes, expected: Image.Image) -> Cell:
        return label, [expected.convert("RGB"), ours(source).convert("RGB")]

    yield cell("JPEG, sRGB", encoded(picture, "JPEG", quality=95), right)
    yield cell("JPEG, progressive, 4:4:4", encoded(picture, "JPEG", quality=95, progressive=True, subsampling=0), right)
    for name in ("Display P3", "Adobe RGB", "ProPhoto"):
        numbers, profile = in_space(picture, name)
        kind = {"Display P3": "JPEG", "Adobe RGB": "WEBP", "ProPhoto": "PNG"}[name]
        yield cell(f"{kind}, {name} profile", encoded(numbers, kind, icc_profile=profile, quality=95), right)
    p3, linear = in_space(picture, "Display P3")[0], in_space(picture, "linear")[0]
    yield cell("PNG, P3 by cICP", with_chunks(encoded(p3, "PNG"), png_chunk(b"cICP", bytes([12, 13, 0, 1]))), right)
    gamma = png_chunk(b"gAMA", struct.pack(">I", 100_000))
    yield cell("PNG, linear by gAMA", with_chunks(encoded(linear, "PNG"), gamma), right)
    yield cell("PNG, 16 bits", sixteen_bits(picture), right)
    yield cell("PNG, palette", encoded(picture.quantize(256), "PNG"), right)
    yield cell("GIF", encoded(picture.quantize(256), "GIF"), right)
    yield cell("AVIF", encoded(picture, "AVIF", quality=90), right)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    yield cell("TIFF, Lab", encoded(ImageCms.applyTransform(picture, to_lab), "TIFF"), right)
    yield cell("PNG, grey", encoded(grey, "PNG"), right_grey)
    yield cell("PNG, grey of 16 bits", sixteen_bits(grey), right_grey)
    yield cell("TIFF, grey of 12 bits", twelve_bits(picture), right_grey)
    light = grey.point([round(255 * (v / 255) ** 2.2) for v in range(256)])
    of_light = encoded(light, "JPEG", icc_profile=linear_grey_profile(), quality=98)
    yield cell("JPEG, grey, linear profile", of_light, right_grey)
    yield cell("PNG, 1 bit", encoded(black_and_white, "PNG"), small(black_and_white.convert("L")))
    yield cell("JPEG, CMYK, no profile", encoded(inks, "JPEG", quality=95), right)
    yield cell("JPEG, YCCK, no profile", ycck(inks), right)
    yield cell("TIFF, CMYK, with profile", encoded(inks, "TIFF", icc_profile=press_profile()), right)


# Alpha


def cut_out() -> Image.Image:
    """Draw a red disc with a pale centre. Its transparent pixels are green, which shows if alpha is ignored."""
    mask = Image.new("L", (336, 336))
    ImageDraw.Draw(mask).ellipse((40, 40, 296, 296), fill=255)
    ImageDraw.Draw(mask).ellipse((128, 128, 208, 208), fill=110)
    image = Image.new("RGB", mask.size, (0, 255, 0))
    image.paste(RED, mask=mask.point(lambda alpha: 255 * (alpha > 0)))
    image.putalpha(mask)
    return image


def hard(image: Image.Image) -> Image.Image:
    """Convert to a palette of red, and green for transparent and half-transparent pixels."""
    result = Image.new("P", image.size, 0)
    result.putpalette([0, 255, 0, *RED])
    result.paste(1, mask=image.getchannel("A").point(lambda alpha: 255 * (alpha >= 128)))
    return result


def shrunk(image: Image.Image) -> Image.Image:
    return image.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.LANCZOS).convert("RGBA")


def alpha_cells() -> Iterable[Cell]:
    picture = cut_out()
    soft, sharp = shrunk(picture), hard(picture)
    visible = sharp.point([0, 255] + [0] * 254, "L")
    rgba = sharp.convert("RGB")
    rgba.putalpha(visible)
    expected = shrunk(rgba)

    def cell(label: str, source: bytes, right: Image.Image) -> Cell:
        return label, [checked(right), checked(ours(source)), checked(ours(source), 0, 40)]

    yield cell("PNG, RGBA", encoded(picture, "PNG"), soft)
    yield cell("WebP, lossy", encoded(picture, "WEBP", quality=90), soft)
    yield cell("AVIF (becomes PNG)", encoded(picture, "AVIF", quality=90), soft)
    yield cell("PNG, palette, one hidden", encoded(sharp, "PNG", transparency=0), expected)
    pale = rgba.copy()
    pale.putalpha(visible.point(lambda alpha: alpha * 150 // 255))
    yield cell("PNG, palette of alphas", encoded(sharp, "PNG", transparency=bytes([0, 150])), shrunk(pale))
    deep = with_chunks(sixteen_bits(sharp.convert("RGB")), png_chunk(b"tRNS", struct.pack(">3H", 0, 65_535, 0)))
    yield cell("PNG, 16 bits, one colour hidden", deep, expected)
    yield cell("GIF", encoded(sharp, "GIF", transparency=0), expected)
    yield cell("TIFF, RGBA (becomes PNG)", encoded(picture, "TIFF"), soft)
    frame = Image.new("P", (168, 168), 0)
    data = bytearray(encoded(frame, "GIF", palette=bytes([*RED] + [0] * 765)))
    data[6:10] = struct.pack("<HH", 336, 336)
    place = data.index(b",\0\0\0\0")
    data[place + 1 : place + 5] = struct.pack("<HH", 84, 84)
    quarter = Image.new("RGBA", (336, 336))
    quarter.paste((*RED, 255), (84, 84, 252, 252))
    yield cell("GIF, frame within canvas", bytes(data), small(quarter))
    still = encoded(Image.new("RGB", (336, 336), (20, 120, 220)), "PNG")
    body = zlib.compress((b"\0" + bytes(RED) * 168) * 168)
    frames = png_chunk(b"fcTL", struct.pack(">5IHHBB", 0, 168, 168, 84, 84, 1, 10, 0, 0))
    frames += png_chunk(b"fdAT", struct.pack(">I", 1) + body)
    animated = still[:33] + png_chunk(b"acTL", struct.pack(">II", 1, 0)) + still[33:-12] + frames + still[-12:]
    yield cell("APNG, frame within canvas", animated, small(quarter))


# Fits


def fit_cells() -> Iterable[Cell]:
    for size in ((300, 300), (400, 200), (150, 450), (1, 10_000), (1, 1)):
        picture = cover(*size) if min(size) > 1 else cover(64, 1024).resize(size, Image.Resampling.BOX)
        shown = picture.copy()
        shown.thumbnail((SIDE, SIDE))
        yield f"source, {size[0]} x {size[1]}", [shown]
        data = encoded(picture, "PNG")
        yield from ((fit, [checked(ours(data, fit))]) for fit in ("cover", "contain", "fill"))
        yield "cover, 50 x 112", [checked(ours(data, "cover", (50, 112)))]
        jpeg = encoded(picture, "JPEG", quality=95)
        yield "contain, JPEG", [checked(ours(jpeg, "contain"))]


SHEETS = {
    "orientation": lambda: sheet("EXIF orientation 1 to 8: as stored, then as rendered", orientation_cells(), 6),
    "colours": lambda: sheet("Colours: left as it should be, right as rendered", colour_cells(), 4),
    "alpha": lambda: sheet("Alpha: as it should be, as rendered, and that on black", alpha_cells(), 2),
    "fit": lambda: sheet("Fits, each 112 x 112", fit_cells(), 6),
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in SHEETS.items():
        path = folder / f"{name}.png"
        make().save(path, optimize=True)
        print(f"{path}: {path.stat().st_size // 1000} kB")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "sheets")
