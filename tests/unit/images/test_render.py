"""Formats, sizes, fits, orientation and metadata of renditions, and the recipe they are made by."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from pipeline.images.containers.exif import orientation as orientation_in
from pipeline.images.content_id import RECIPE_VERSION, content_id
from pipeline.images.formats import ENCODER_SETTINGS, OPTIMIZED_SIDE, format_by_extension
from pipeline.images.identify import identify
from pipeline.images.render import render
from pipeline.recipe import Recipe
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


def test_an_icon_with_a_bitmap_becomes_png() -> None:
    # Given an icon whose picture is a bitmap with a mask
    data = encoded(corners().convert("RGBA"), "ICO", bitmap_format="bmp", sizes=[(32, 32)])
    # Then it has alpha, so it becomes PNG
    assert identify(data, max_pixels=1024).output.name == "PNG"
    assert_quarters(rendered(data), RED, GREEN, BLUE, YELLOW)


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


def test_an_unknown_extension_is_refused() -> None:
    with pytest.raises(KeyError):
        format_by_extension(".bmp")


# Sizes and fits


@pytest.mark.parametrize("fit", ["cover", "contain", "fill"])
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (200, 50), (50, 200), (799, 601), (1, 10_000), (10_000, 1)])
@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_every_rendition_has_exactly_its_size(name: str, size: tuple[int, int], fit: str) -> None:
    # Given a source of any shape
    data = encoded(Image.new("RGB", size, RED), name)
    wanted = recipe("50x50", "250X250", "400x400", "30x90", "7x1", "1x300", fit=fit)
    # When it is rendered
    result = render(data, wanted, **LIMITS)
    # Then all renditions exist, in order, under their names, each with its size
    assert list(result) == ["50x50", "250X250", "400x400", "30x90", "7x1", "1x300"]
    for rendition in wanted.renditions:
        image = Image.open(io.BytesIO(result[rendition.name]))
        assert image.size == (rendition.width, rendition.height)
        if fit != "contain":
            assert is_near(image.convert("RGB").getpixel((0, 0)), RED)


def test_a_thin_source_in_a_wide_rendition_keeps_its_centre() -> None:
    # Given a picture of one column with a green middle; the visible part is a ten-thousandth of a pixel high
    source = Image.new("RGB", (1, 10_001), RED)
    source.paste(GREEN, (0, 4_990, 1, 5_011))
    # Then it is enlarged nevertheless
    image = rendered(encoded(source, "PNG"), "16383x1")
    assert image.size == (16_383, 1)
    assert image.getpixel((8_000, 0)) == GREEN


def test_cover_crops_around_the_centre() -> None:
    # Given red and blue margins around a green square
    source = Image.new("RGB", (300, 100), GREEN)
    source.paste(RED, (0, 0, 100, 100))
    source.paste(BLUE, (200, 0, 300, 100))
    # Then nothing of the margins remains, except the filter's blend into the last columns
    image = rendered(encoded(source, "PNG"), "40x40", "cover")
    assert image.crop((4, 0, 36, 40)).getcolors() == [(32 * 40, GREEN)]
    assert all(image.getpixel((x, 20))[1] > 200 for x in (0, 39))


@pytest.mark.parametrize(("name", "expected"), [("PNG", (*WHITE, 0)), ("WEBP", (*WHITE, 0)), ("JPEG", (*WHITE, 255))])
def test_contain_pads_with_transparency_or_white(name: str, expected: tuple[int, ...]) -> None:
    image = rendered(encoded(Image.new("RGB", (200, 100), RED), name, quality=95), "40x40", "contain").convert("RGBA")
    alpha_only = slice(3, 4) if expected[3] == 0 else slice(0, 4)
    for corner in ((0, 0), (39, 0), (0, 39), (39, 39), (20, 2), (20, 37)):
        assert is_near(image.getpixel(corner)[alpha_only], expected[alpha_only])
    for inside in ((0, 12), (39, 27), (20, 20)):
        assert is_near(image.getpixel(inside), (*RED, 255), 12)


def test_contain_pads_a_gif_with_its_transparent_colour() -> None:
    image = rendered(encoded(Image.new("RGB", (200, 100), RED), "GIF"), "40x40", "contain").convert("RGBA")
    assert [image.getpixel(place)[3] for place in ((0, 0), (39, 39), (20, 20))] == [0, 0, 255]
    assert image.getpixel((20, 20))[:3] == RED


def test_fill_stretches() -> None:
    image = rendered(encoded(corners(300, 100), "PNG"), "40x80", "fill")
    assert image.size == (40, 80)
    assert_quarters(image, RED, GREEN, BLUE, YELLOW)
    assert image.getpixel((0, 0)) == RED
    assert image.getpixel((39, 79)) == YELLOW


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


def directory(order: str, *entries: tuple[int, int, int], count: int | None = None) -> bytes:
    """Build an Exif block in a byte order from tags, types and values."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(entries) if count is None else count)
    return head + b"".join(struct.pack(f"{order}HHIHH", tag, kind, 1, value, 0) for tag, kind, value in entries)


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("order", "<>")
def test_an_orientation_is_found_in_either_byte_order(order: str, prefix: bytes) -> None:
    for value in range(1, 9):
        assert orientation_in(prefix + directory(order, (0x0112, 3, value))) == value
    assert orientation_in(prefix + directory(order, (0x010F, 3, 5), (0x0112, 3, 6), (0x0112, 3, 7))) == 6


@pytest.mark.parametrize(
    "block",
    [
        directory("<", (0x0112, 3, 0)),
        directory("<", (0x0112, 3, 9)),
        directory("<", (0x0112, 4, 6)),
        directory("<", (0x0113, 3, 6)),
        directory("<", (0x0112, 3, 6), count=0),
        directory("<", count=1),
        b"XX" + directory("<", (0x0112, 3, 6))[2:],
        b"",
    ],
)
def test_a_source_without_orientation_is_upright(block: bytes) -> None:
    assert orientation_in(block) == 1


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


def test_a_recipe_survives_encoding() -> None:
    wanted = recipe("50x50", "250X250", fit="fill")
    assert wanted.encode() == {"renditions": ["50x50", "250X250"], "fit": "fill"}
    assert Recipe.decode(wanted.encode()) == wanted


@pytest.mark.parametrize(
    "data",
    [
        {"renditions": [], "fit": "cover"},
        {"renditions": ["50"], "fit": "cover"},
        {"renditions": [50], "fit": "cover"},
        {"renditions": ["5x5"], "fit": ""},
        {"renditions": ["5x5"], "fit": []},
        {"renditions": ["5x5"]},
        None,
    ],
)
def test_a_bad_recipe_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"rendition|not <width>|not one of|not a recipe"):
        Recipe.decode(data)


def test_the_same_source_and_recipe_have_the_same_id() -> None:
    first = content_id(b"source", recipe("50x50", "250X250"))
    assert first == content_id(b"source", recipe("50x50", "250X250"))
    assert len(first) == 32
    assert set(first) <= set("0123456789abcdef")


def test_any_difference_makes_another_id(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given ids of sources and recipes that each differ in one respect
    base = recipe("50x50", "250X250")
    ids = [
        content_id(b"source", base),
        content_id(b"source\0", base),
        content_id(b"", base),
        content_id(b"source", recipe("50x50", "250x250")),
        content_id(b"source", recipe("50x50")),
        content_id(b"source", recipe("50x50", "250X250", fit="fill")),
    ]
    # And with a later version, or with another quality
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.images.content_id.RECIPE_VERSION", RECIPE_VERSION + 1)
        ids.append(content_id(b"source", base))
    changed = {**ENCODER_SETTINGS, "JPEG": {"quality": 1}}
    monkeypatch.setattr("pipeline.images.content_id.ENCODER_SETTINGS", changed)
    ids.append(content_id(b"source", base))
    # Then all of them differ
    assert len(set(ids)) == len(ids)


def test_only_small_renditions_have_huffman_tables_of_their_own() -> None:
    # Given two covers, each at a size up to OPTIMIZED_SIDE and a larger one
    size = (OPTIMIZED_SIDE + 44, OPTIMIZED_SIDE + 44)
    flat, noisy = Image.new("RGB", size, "navy"), Image.effect_noise(size, 80).convert("RGB")
    names = (f"{OPTIMIZED_SIDE}x20", f"{OPTIMIZED_SIDE + 1}x20")
    made = [render(encoded(each, "JPEG"), recipe(*names), **LIMITS) for each in (flat, noisy)]
    # Then the small ones have tables of their own, and the large ones the standard tables
    small, large = ([huffman_tables(each[name]) for each in made] for name in names)
    assert small[0] != small[1]
    assert large[0] == large[1] == huffman_tables(encoded(flat, "JPEG"))


def huffman_tables(jpeg: bytes) -> bytes:
    """Return the contents of the DHT segments."""
    found, at = b"", 2
    while jpeg[at + 1] != 0xDA:
        length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        found += jpeg[at + 4 : at + 2 + length] if jpeg[at + 1] == 0xC4 else b""
        at += 2 + length
    return found
