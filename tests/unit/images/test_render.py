"""Formats, sizes, fits, orientation and metadata of renditions, and the recipe they are made by."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from pipeline.images.encoding import format_by_extension
from pipeline.images.identify import identify
from pipeline.images.render import render
from tests.support.pictures import (
    BLACK,
    BLUE,
    GREEN,
    LIMITS,
    ORIENTATION,
    RED,
    WHITE,
    YELLOW,
    assert_quarters,
    corners,
    encoded,
    exif,
    is_near,
    png_chunk,
    recipe,
    rendered,
)

# Formats


@pytest.mark.parametrize(
    ("name", "mode", "extension"),
    [
        ("JPEG", "RGB", ".jpeg"),
        ("PNG", "RGB", ".png"),
        ("PNG", "RGBA", ".png"),
        ("GIF", "RGB", ".gif"),
        ("WEBP", "RGB", ".webp"),
        ("WEBP", "RGBA", ".webp"),
        ("AVIF", "RGB", ".jpeg"),
        ("AVIF", "RGBA", ".png"),
        ("BMP", "RGB", ".jpeg"),
        ("TIFF", "RGB", ".jpeg"),
        ("TIFF", "RGBA", ".png"),
        ("ICO", "RGB", ".jpeg"),
        ("ICO", "RGBA", ".png"),
    ],
)
def test_each_format_becomes_its_output_format(name: str, mode: str, extension: str) -> None:
    # Given a source of that format, with a hole if it has alpha
    source = corners().convert(mode)
    if mode == "RGBA":
        source.paste((0, 0, 0, 0), (24, 24, 40, 40))
    data = encoded(source, name)
    # When it is identified and rendered
    output = identify(data, max_pixels=64 * 64).output
    image = rendered(data)
    # Then both agree with the contract, and the picture is unchanged
    assert output == format_by_extension(extension)
    assert output.extension == extension
    assert image.format == output.name
    assert output.content_type == Image.MIME[output.name]
    assert_quarters(image, RED, GREEN, BLUE, YELLOW, tolerance=40)
    if mode == "RGBA":
        assert image.convert("RGBA").getpixel((20, 20))[3] == 0


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO"])
@pytest.mark.parametrize("fit", ["cover", "contain"])
def test_plain_names_are_jpeg_or_png_if_asked_for(name: str, fit: str) -> None:
    # Given an opaque source of any format, and one with a hole where the format has alpha
    for mode in ("RGB",) if name in ("JPEG", "BMP") else ("RGB", "RGBA"):
        source = corners(64, 40).convert(mode)
        if mode == "RGBA":
            source.paste((0, 0, 0, 0), (24, 15, 40, 25))
        data = encoded(source, name)
        # When plain names are to be JPEG or PNG
        found = identify(data, max_pixels=64 * 64, formats="jpeg,png").output
        names = ("40x40", "30x30.webp")
        made = render(data, recipe(*names, fit=fit, formats="jpeg,png"), **LIMITS)
        plain, named = (Image.open(io.BytesIO(each)) for each in made.values())
        # Then it is JPEG if opaque, else PNG with its hole; other names keep their format
        assert (found.name, plain.format, named.format) == (*["JPEG" if mode == "RGB" else "PNG"] * 2, "WEBP")
        alpha = plain.convert("RGBA").getpixel((20, 20))[3]
        assert alpha < 16 if mode == "RGBA" else alpha == 255
        assert_quarters(plain if fit == "cover" else plain.crop((0, 8, 40, 32)), RED, GREEN, BLUE, YELLOW, tolerance=40)


def test_a_multi_picture_jpeg_shows_its_first_picture() -> None:
    data = encoded(corners(), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64), BLACK)], quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert identify(data, max_pixels=64 * 64).extension == ".jpeg"
    assert_quarters(rendered(data), RED, GREEN, BLUE, YELLOW, tolerance=16)


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_an_animation_shows_its_first_frame(name: str) -> None:
    data = encoded(corners(), name, save_all=True, append_images=[Image.new("RGB", (64, 64), BLACK)])
    image = rendered(data)
    assert getattr(image, "n_frames", 1) == 1
    assert_quarters(image, RED, GREEN, BLUE, YELLOW, tolerance=40)


# Sizes and fits


def test_a_small_rendition_is_the_same_whether_made_alone_or_from_a_larger_one() -> None:
    # Given a picture with fine detail
    source = Image.effect_mandelbrot((640, 640), (-2.0, -1.5, 1.0, 1.5), 60).convert("RGB")
    data = encoded(source, "PNG")
    # When a small rendition is made alone, and from larger ones
    alone = rendered(data, "40x40")
    on_the_way = Image.open(io.BytesIO(render(data, recipe("40x40", "160x160", "400x400"), **LIMITS)["40x40"]))
    # Then the difference is invisible
    pairs = zip(alone.convert("L").tobytes(), on_the_way.convert("L").tobytes(), strict=True)
    assert sum(abs(a - b) for a, b in pairs) / 1600 < 4


def test_renditions_of_different_shapes_are_cropped_each_from_the_source() -> None:
    # Given red on the left and right, green in the middle
    source = Image.new("RGB", (300, 100), RED)
    source.paste(GREEN, (100, 0, 200, 100))
    # When a square and a wide rendition are made together
    result = render(encoded(source, "PNG"), recipe("90x90", "45x15"), **LIMITS)
    wide = Image.open(io.BytesIO(result["45x15"]))
    # Then the wide one shows the parts that the square one lost
    assert [wide.getpixel((x, 7)) for x in (4, 22, 40)] == [RED, GREEN, RED]


# Orientation


def test_a_rendition_made_from_a_larger_one_is_upright_too() -> None:
    # Given a JPEG that is stored sideways
    data = encoded(corners(512, 256), "JPEG", exif=exif(6), quality=95)
    # When a wide rendition is made from a wider one
    result = render(data, recipe("120x100", "30x20", fit="fill"), **LIMITS)
    # Then both are upright and complete
    for part in result.values():
        image = Image.open(io.BytesIO(part))
        assert_quarters(image, BLUE, RED, YELLOW, GREEN, tolerance=60)
        assert is_near(image.getpixel((0, 0)), BLUE, 60)


@pytest.mark.parametrize("size", [(64, 32), (512, 256)])  # The second is decoded at a smaller scale.
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, (RED, GREEN, BLUE, YELLOW)),
        (2, (GREEN, RED, YELLOW, BLUE)),
        (3, (YELLOW, BLUE, GREEN, RED)),
        (4, (BLUE, YELLOW, RED, GREEN)),
        (5, (RED, BLUE, GREEN, YELLOW)),
        (6, (BLUE, RED, YELLOW, GREEN)),
        (7, (YELLOW, GREEN, BLUE, RED)),
        (8, (GREEN, YELLOW, RED, BLUE)),
    ],
)
def test_orientation_is_applied(
    name: str, size: tuple[int, int], orientation: int, expected: tuple[tuple[int, ...], ...]
) -> None:
    # Given a picture that is stored rotated
    data = encoded(corners(*size), name, exif=exif(orientation), quality=95)
    # When it is stretched to a wide shape, and fitted into a square
    stretched = rendered(data, "60x20", "fill")
    inside = rendered(data, "40x40", "contain").convert("RGBA")
    # Then it is upright, and has no orientation any more
    assert_quarters(stretched, *expected, tolerance=30)
    assert ORIENTATION not in stretched.getexif()
    # And its long side is in place: the padding is at the other two sides
    is_tall = orientation in (5, 6, 7, 8)
    padded = inside.getpixel((2, 20) if is_tall else (20, 2))
    filled = inside.getpixel((20, 2) if is_tall else (2, 20))
    assert padded[3] == 0 or is_near(padded[:3], WHITE)
    assert filled[3] == 255
    assert not is_near(filled[:3], WHITE)


def test_an_orientation_after_the_pixels_of_a_png_is_applied() -> None:
    data = encoded(corners(64, 32), "PNG")
    block = exif(3).tobytes().removeprefix(b"Exif\0\0")
    end = png_chunk(b"IEND", b"")
    late = data.removesuffix(end) + png_chunk(b"eXIf", block) + end
    assert_quarters(rendered(late, "60x20", "fill"), YELLOW, BLUE, GREEN, RED)


def test_a_rotated_jpeg_is_decoded_as_large_as_its_renditions_need() -> None:
    # Given stripes of single pixels in a picture that is tall once it is upright
    stripes = Image.frombytes("L", (800, 400), b"\0\xff" * 400 * 400).convert("RGB")
    data = encoded(stripes, "JPEG", exif=exif(6), quality=95)
    # When a wide part of it is taken at full width, then the stripes are still there.
    darkest, lightest = rendered(data, "400x200").convert("L").getextrema()
    assert lightest - darkest > 150


def test_a_jpeg_with_several_exif_blocks_uses_the_first() -> None:
    # Given a JPEG with two blocks: the camera's, and an editor's after it
    data = encoded(corners(64, 32), "JPEG", exif=exif(3), quality=95)
    block = exif(6).tobytes()
    picture = data.index(b"\xff\xdb")
    twice = data[:picture] + b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block + data[picture:]
    assert twice.count(b"Exif\0\0") == 2
    assert_quarters(rendered(twice, "60x20", "fill"), YELLOW, BLUE, GREEN, RED, tolerance=30)


@pytest.mark.parametrize("block", [b"MM\0*\xff\xff\xff\xff\xff", b"rubbish", b""])
@pytest.mark.parametrize("name", ["JPEG", "WEBP"])
def test_a_broken_exif_block_is_ignored(name: str, block: bytes) -> None:
    data = encoded(corners(), name, exif=b"Exif\0\0" + block, quality=95)
    assert_quarters(rendered(data), RED, GREEN, BLUE, YELLOW, tolerance=30)


# Metadata


@pytest.mark.parametrize("fit", ["cover", "contain"])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP"])
def test_all_metadata_is_gone(name: str, fit: str) -> None:
    # Given a source with its place and author, in every form that its format has
    where = Image.Exif()
    where[ExifTags.Base.Artist] = "SECRET"
    where.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "SECRET")
    text.add_itxt("XML:com.adobe.xmp", "SECRET")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options = {"exif": where, "icc_profile": profile, "xmp": b"<SECRET>", "comment": b"SECRET", "dpi": (7, 7)}
    if name == "PNG":
        options["pnginfo"] = text
    data = encoded(corners(), name, **options)
    assert b"SECRET" in data
    # When it is rendered unchanged and smaller
    result = render(data, recipe("64x64", "20x20", fit=fit), **LIMITS)
    # Then none of the metadata is left
    for part in result.values():
        image = Image.open(io.BytesIO(part))
        image.load()
        harmless = {"jfif", "jfif_version", "jfif_unit", "jfif_density"}  # The beginning of every JPEG.
        harmless |= {"version", "background", "duration", "transparency", "extension", "loop", "timestamp"}
        assert not set(image.info) - harmless
        assert not dict(image.getexif())
        assert b"SECRET" not in part


# The recipe
