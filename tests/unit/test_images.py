"""Images made here, with known colours in known places, rendered and looked at again."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageFile, PngImagePlugin

from pipeline import images
from pipeline.errors import PermanentError, RetryableError
from pipeline.images import Recipe, format_by_extension, identify, render
from pipeline.settings import parse_rendition

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (128, 128, 128)
LIMITS = {"max_pixels": 1_000_000, "max_decoded_pixels": 1_000_000}
ORIENTATION = ExifTags.Base.Orientation


def recipe(*names: str, fit: str = "cover") -> Recipe:
    return Recipe(tuple(parse_rendition(name) for name in names), fit)


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def rendered(source: bytes, name: str = "40x40", fit: str = "cover") -> Image.Image:
    return Image.open(io.BytesIO(render(source, recipe(name, fit=fit), **LIMITS)[name]))


def corners(width: int = 64, height: int = 64) -> Image.Image:
    """Red, green / blue, yellow: one colour for each quarter."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height))
    image.paste(BLUE, (0, height // 2, width, height))
    image.paste(YELLOW, (width // 2, height // 2, width, height))
    return image


def quarters(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters: top left, top right, bottom left, bottom right."""
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
    """A PNG that claims to be as large as you like; its pixels are `data`."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + body


def tiled_tiff(side: int) -> bytes:
    """A TIFF of one grey pixel, in a tile as large as you like."""
    tags = {256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 134, 325: 9}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + zlib.compress(b"\0")


def icon(picture: bytes, side: int = 0) -> bytes:
    """An icon of one picture."""
    entry = struct.pack("<BBBBHHII", side, side, 0, 0, 1, 32, len(picture), 22)
    return b"\0\0\1\0\1\0" + entry + picture


def profile_with_red_and_blue_exchanged() -> bytes:
    """sRGB with the primaries of red and blue in each other's place."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Given the directory of tags ends in entries of (signature, offset, size), exchanging two names is enough.
    return data.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")


def linear_profile() -> bytes:
    """sRGB, but with values proportional to light."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    start = data.index(b"para") + 8
    return data[:start] + struct.pack(">HHi", 0, 0, 65536) + data[start + 8 :]


def linear_grey_profile() -> bytes:
    """A profile for grey whose values are proportional to light."""
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
    # Given a source of that format, with a hole where it has alpha
    source = corners().convert(mode)
    if mode == "RGBA":
        source.paste((0, 0, 0, 0), (24, 24, 40, 40))
    data = encoded(source, name)
    # When it is identified and rendered
    output = identify(data, max_pixels=64 * 64)
    image = rendered(data)
    # Then both agree with the contract, and the picture is still the picture
    assert output == format_by_extension(extension)
    assert output.extension == extension
    assert image.format == output.name
    assert output.content_type == Image.MIME[output.name]
    assert_quarters(image, RED, GREEN, BLUE, YELLOW, tolerance=40)
    if mode == "RGBA":
        assert image.convert("RGBA").getpixel((20, 20))[3] == 0


def test_an_icon_of_a_bitmap_is_png() -> None:
    # Given an icon whose picture is a bitmap with a mask
    data = encoded(corners().convert("RGBA"), "ICO", bitmap_format="bmp", sizes=[(32, 32)])
    # Then it has alpha, so it is PNG
    assert identify(data, max_pixels=1024).name == "PNG"
    assert_quarters(rendered(data), RED, GREEN, BLUE, YELLOW)


def test_of_a_multi_picture_jpeg_the_first_counts() -> None:
    data = encoded(corners(), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64), BLACK)], quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert identify(data, max_pixels=64 * 64).extension == ".jpeg"
    assert_quarters(rendered(data), RED, GREEN, BLUE, YELLOW, tolerance=16)


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_of_an_animation_the_first_frame_counts(name: str) -> None:
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
    # Then all renditions are there, in order, by their names, each of its size
    assert list(result) == ["50x50", "250X250", "400x400", "30x90", "7x1", "1x300"]
    for rendition in wanted.renditions:
        image = Image.open(io.BytesIO(result[rendition.name]))
        assert image.size == (rendition.width, rendition.height)
        if fit != "contain":
            assert is_near(image.convert("RGB").getpixel((0, 0)), RED)


def test_a_thin_source_in_a_wide_rendition_keeps_its_centre() -> None:
    # Given a picture of one column whose middle is green: the part to show is a ten-thousandth of a pixel high
    source = Image.new("RGB", (1, 10_001), RED)
    source.paste(GREEN, (0, 4_990, 1, 5_011))
    # Then it is enlarged all the same
    image = rendered(encoded(source, "PNG"), "16383x1")
    assert image.size == (16_383, 1)
    assert image.getpixel((8_000, 0)) == GREEN


def test_cover_crops_around_the_centre() -> None:
    # Given red and blue margins about a square of green
    source = Image.new("RGB", (300, 100), GREEN)
    source.paste(RED, (0, 0, 100, 100))
    source.paste(BLUE, (200, 0, 300, 100))
    # Then nothing of the margins is left, but for what any filter mixes into the last column
    image = rendered(encoded(source, "PNG"), "40x40", "cover")
    assert image.crop((1, 0, 39, 40)).getcolors() == [(38 * 40, GREEN)]
    assert all(image.getpixel((x, 20))[1] > 200 for x in (0, 39))


@pytest.mark.parametrize(("name", "expected"), [("PNG", (*WHITE, 0)), ("WEBP", (*WHITE, 0)), ("JPEG", (*WHITE, 255))])
def test_contain_pads_with_nothing_or_white(name: str, expected: tuple[int, ...]) -> None:
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
    # Given a picture with detail in it
    source = Image.effect_mandelbrot((640, 640), (-2.0, -1.5, 1.0, 1.5), 60).convert("RGB")
    data = encoded(source, "PNG")
    # When a small rendition is made alone, and on the way from larger ones
    alone = rendered(data, "40x40")
    on_the_way = Image.open(io.BytesIO(render(data, recipe("40x40", "160x160", "400x400"), **LIMITS)["40x40"]))
    # Then nobody can tell
    pairs = zip(alone.convert("L").tobytes(), on_the_way.convert("L").tobytes(), strict=True)
    assert sum(abs(a - b) for a, b in pairs) / 1600 < 4


def test_renditions_of_different_shapes_are_cropped_each_from_the_source() -> None:
    # Given red left and right, green in the middle
    source = Image.new("RGB", (300, 100), RED)
    source.paste(GREEN, (100, 0, 200, 100))
    # When a square and a wide rendition are made together
    result = render(encoded(source, "PNG"), recipe("90x90", "45x15"), **LIMITS)
    wide = Image.open(io.BytesIO(result["45x15"]))
    # Then the wide one shows what the square one has lost
    assert [wide.getpixel((x, 7)) for x in (4, 22, 40)] == [RED, GREEN, RED]


# Orientation


def test_what_is_made_from_a_larger_rendition_is_upright_too() -> None:
    # Given a JPEG that lies on its side
    data = encoded(corners(512, 256), "JPEG", exif=exif(6), quality=95)
    # When a wide rendition is made from a wider one
    result = render(data, recipe("120x100", "30x20", fit="fill"), **LIMITS)
    # Then both are upright and full
    for part in result.values():
        image = Image.open(io.BytesIO(part))
        assert_quarters(image, BLUE, RED, YELLOW, GREEN, tolerance=60)
        assert is_near(image.getpixel((0, 0)), BLUE, 60)


@pytest.mark.parametrize("size", [(64, 32), (512, 256)])  # the second is decoded at a smaller scale
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
    # Given a picture that is stored turned
    data = encoded(corners(*size), name, exif=exif(orientation), quality=95)
    # When it is stretched to a shape that is wide, and put inside a square
    stretched = rendered(data, "60x20", "fill")
    inside = rendered(data, "40x40", "contain").convert("RGBA")
    # Then it is upright, and nothing says that it is not
    assert_quarters(stretched, *expected, tolerance=30)
    assert ORIENTATION not in stretched.getexif()
    # And its long side is where it belongs: the padding is at the other two
    is_tall = orientation in (5, 6, 7, 8)
    padded = inside.getpixel((2, 20) if is_tall else (20, 2))
    filled = inside.getpixel((20, 2) if is_tall else (2, 20))
    assert padded[3] == 0 or is_near(padded[:3], WHITE)
    assert filled[3] == 255
    assert not is_near(filled[:3], WHITE)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    data = encoded(corners(), "WEBP", exif=exif(orientation), quality=95)
    assert_quarters(rendered(data), RED, GREEN, BLUE, YELLOW, tolerance=30)


def test_an_orientation_after_the_pixels_of_a_png_counts() -> None:
    data = encoded(corners(64, 32), "PNG")
    block = exif(3).tobytes().removeprefix(b"Exif\0\0")
    end = png_chunk(b"IEND", b"")
    late = data.removesuffix(end) + png_chunk(b"eXIf", block) + end
    assert_quarters(rendered(late, "60x20", "fill"), YELLOW, BLUE, GREEN, RED)


@pytest.mark.parametrize("block", [b"MM\0*\xff\xff\xff\xff\xff", b"rubbish", b""])
@pytest.mark.parametrize("name", ["JPEG", "WEBP"])
def test_a_broken_exif_block_is_ignored(name: str, block: bytes) -> None:
    data = encoded(corners(), name, exif=b"Exif\0\0" + block, quality=95)
    assert_quarters(rendered(data), RED, GREEN, BLUE, YELLOW, tolerance=30)


# Colours


@pytest.mark.parametrize(("name", "quality"), [("JPEG", 95), ("TIFF", None)])
def test_cmyk_becomes_srgb(name: str, quality: int | None) -> None:
    # Given ink: none, all black, pure cyan, pure magenta
    source = Image.new("CMYK", (64, 64), (0, 0, 0, 0))
    source.paste((0, 0, 0, 255), (32, 0, 64, 64))
    source.paste((255, 0, 0, 0), (0, 32, 32, 64))
    source.paste((0, 255, 0, 0), (32, 32, 64, 64))
    data = encoded(source, name, **({"quality": quality} if quality else {}))
    # Then it is light: white, black, cyan, magenta
    image = rendered(data)
    assert image.mode == "RGB"
    assert_quarters(image, WHITE, BLACK, (0, 255, 255), (255, 0, 255), tolerance=12)


def ramp(mode: str, top: float) -> Image.Image:
    """Grey of a quarter, a half, three quarters and all of `top`."""
    if mode.startswith("I;16"):  # Pillow can't paste into it
        high, low = ramp("L", 255).tobytes(), bytes(64 * 64)
        ordered = zip(high, low, strict=True) if mode.endswith("B") else zip(low, high, strict=True)
        return Image.frombytes(mode, (64, 64), bytes(byte for pair in ordered for byte in pair))
    image = Image.new(mode, (64, 64))
    for index, (x, y) in enumerate([(0, 0), (32, 0), (0, 32), (32, 32)]):
        value = top * (index + 1) / 4
        image.paste(value if mode == "F" else int(value), (x, y, x + 32, y + 32))
    return image


@pytest.mark.parametrize(
    ("mode", "top", "name"),
    [
        ("L", 255, "JPEG"),
        ("L", 255, "PNG"),
        ("L", 255, "GIF"),
        ("LA", 255, "PNG"),
        ("I;16", 65535, "PNG"),
        ("I;16", 65535, "TIFF"),
        ("I;16B", 65535, "TIFF"),
        ("I", 65535, "TIFF"),
        ("I", 255, "TIFF"),
        ("F", 1.0, "TIFF"),
        ("F", 255.0, "TIFF"),
    ],
)
def test_grey_of_any_depth_is_scaled_to_eight_bits(mode: str, top: float, name: str) -> None:
    source = ramp("L" if mode == "LA" else mode, top)
    if mode == "LA":
        source.putalpha(200)
    image = rendered(encoded(source, name))
    assert_quarters(image, (64,) * 3, (128,) * 3, (191,) * 3, (255,) * 3, tolerance=2)


def test_dark_grey_of_sixteen_bits_stays_dark() -> None:
    # Given nothing brighter than a hundredth of white
    image = rendered(encoded(Image.new("I;16", (64, 64), 650), "PNG"))
    assert_quarters(image, *[(3,) * 3] * 4, tolerance=1)


def test_colour_of_sixteen_bits() -> None:
    # Given a PNG of 16 bits a channel, which Pillow can't write
    rows = b"".join(b"\0" + struct.pack(">HHH", 65535, 32768, 257) * 8 for _ in range(8))
    image = rendered(png_header(8, 8, bits=16, data=rows))
    assert_quarters(image, *[(255, 128, 1)] * 4, tolerance=1)


def test_black_and_white() -> None:
    source = Image.new("1", (64, 64), 1)
    source.paste(0, (32, 0, 64, 64))
    for name in ("PNG", "TIFF", "BMP"):
        assert_quarters(rendered(encoded(source, name)), WHITE, BLACK, WHITE, BLACK)


def test_black_and_white_mix_to_grey() -> None:
    # Given a fine pattern of as much black as white
    source = Image.frombytes("1", (64, 64), (b"\x55" * 8 + b"\xaa" * 8) * 32)
    assert_quarters(rendered(encoded(source, "PNG"), "16x16"), *[GREY] * 4)


def test_lab_becomes_srgb() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = rendered(encoded(ImageCms.applyTransform(corners(), to_lab), "TIFF"))
    assert_quarters(image, RED, GREEN, BLUE, YELLOW, tolerance=24)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_an_embedded_profile_is_applied(name: str) -> None:
    # Given a picture whose profile says that its red is blue and its blue is red
    data = encoded(corners(), name, icc_profile=profile_with_red_and_blue_exchanged(), quality=95)
    image = rendered(data)
    # Then that is how it looks: cyan where there was yellow
    assert_quarters(image, BLUE, GREEN, RED, (0, 255, 255), tolerance=30)
    assert "icc_profile" not in image.info


def test_a_profile_leaves_alpha_alone() -> None:
    source = corners().convert("RGBA")
    source.putalpha(100)
    image = rendered(encoded(source, "PNG", icc_profile=profile_with_red_and_blue_exchanged()))
    assert image.getpixel((10, 10)) == (*BLUE, 100)


def test_a_profile_is_applied_to_a_palette() -> None:
    data = encoded(corners().quantize(4), "PNG", icc_profile=profile_with_red_and_blue_exchanged())
    assert_quarters(rendered(data), BLUE, GREEN, RED, (0, 255, 255))


@pytest.mark.parametrize("profile", [linear_grey_profile(), linear_profile()], ids=["grey", "colour"])
@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_a_profile_is_applied_to_grey(name: str, profile: bytes) -> None:
    # Given half of the light, which is much more than half of white in sRGB
    data = encoded(Image.new("L", (64, 64), 128), name, icc_profile=profile)
    assert_quarters(rendered(data), *[(188,) * 3] * 4, tolerance=3)


@pytest.mark.parametrize("profile", [b"rubbish", profile_with_red_and_blue_exchanged()[:200], linear_grey_profile()])
def test_a_profile_that_is_broken_or_of_other_colours_is_ignored(profile: bytes) -> None:
    data = encoded(corners(), "PNG", icc_profile=profile)
    assert_quarters(rendered(data), RED, GREEN, BLUE, YELLOW)


# Alpha


@pytest.mark.parametrize("kind", ["index", "alphas"])
def test_transparency_of_a_palette_is_kept(kind: str) -> None:
    # Given a palette whose first colour is transparent, or of which each colour has its alpha
    source = Image.new("P", (64, 64), 1)
    source.putpalette([*RED, *GREEN, *BLUE])
    source.paste(0, (0, 0, 32, 64))
    data = encoded(source, "PNG", transparency=0 if kind == "index" else bytes([0, 100]))
    # When it is rendered
    image = rendered(data)
    # Then so is the result
    assert image.mode == "RGBA"
    assert image.getpixel((5, 20))[3] == 0
    assert image.getpixel((35, 20)) == (*GREEN, 255 if kind == "index" else 100)


def test_transparency_of_a_colour_is_kept() -> None:
    image = rendered(encoded(corners(), "PNG", transparency=RED))
    assert image.getpixel((5, 5))[3] == 0
    assert image.getpixel((35, 35)) == (*YELLOW, 255)


def test_transparency_of_a_gif_is_kept() -> None:
    # Given a GIF with a hole and more than enough colours around it
    source = Image.merge("RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.linear_gradient("L")])
    source = source.convert("RGBA")
    source.paste((0, 0, 0, 0), (64, 64, 192, 192))
    image = rendered(encoded(source, "GIF"), "100x100").convert("RGBA")
    assert image.getpixel((50, 50))[3] == 0
    assert [image.getpixel(place)[3] for place in ((5, 5), (95, 5), (5, 95), (95, 95))] == [255] * 4
    assert is_near(image.getpixel((50, 97)), source.resize((100, 100)).getpixel((50, 97)), 24)


@pytest.mark.parametrize(("name", "tolerance"), [("PNG", 2), ("WEBP", 12)])
def test_edges_do_not_darken(name: str, tolerance: int) -> None:
    # Given red beside nothing, and nothing is black
    source = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    source.paste((*RED, 255), (0, 0, 101, 256))
    image = rendered(encoded(source, name, lossless=True), "40x40")
    # Then what is partly red is all red
    edge = [image.getpixel((x, 20)) for x in range(40) if 40 < image.getpixel((x, 20))[3] < 250]
    assert edge
    assert all(is_near(pixel[:3], RED, tolerance) for pixel in edge)


def test_an_opaque_alpha_channel_is_dropped() -> None:
    assert rendered(encoded(corners().convert("RGBA"), "PNG")).mode == "RGB"


# Metadata


@pytest.mark.parametrize("fit", ["cover", "contain"])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP"])
def test_all_metadata_is_gone(name: str, fit: str) -> None:
    # Given a source that says where and by whom it was made, in all the ways its format has
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
    # When it is rendered, as it is and in a smaller size
    result = render(data, recipe("64x64", "20x20", fit=fit), **LIMITS)
    # Then nothing of that is left
    for part in result.values():
        image = Image.open(io.BytesIO(part))
        image.load()
        harmless = {"jfif", "jfif_version", "jfif_unit", "jfif_density"}  # what every JPEG begins with
        harmless |= {"version", "background", "duration", "transparency", "extension", "loop", "timestamp"}
        assert not set(image.info) - harmless
        assert not dict(image.getexif())
        assert b"SECRET" not in part


# What is refused


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (b"", "not_an_image"),
        (b"\0" * 5000, "not_an_image"),
        (b"BMW is a make of cars, and this is a text", "not_an_image"),
        (b"<!doctype html><html><body>404</body></html>", "not_an_image"),
        (b'{"error": "not found"}', "not_an_image"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format"),
        (b"  <svg/>", "unsupported_format"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "unsupported_format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "unsupported_format"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_format"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "unsupported_format"),
        (b"8BPS\0\1" + b"\0" * 30, "unsupported_format"),
        (encoded(Image.new("RGB", (8, 8)), "PPM"), "not_an_image"),
        (encoded(Image.new("RGB", (8, 8)), "JPEG2000"), "unsupported_format"),
        (b"\xff\xd8\xff", "broken_image"),
        (b"\x89PNG\r\n\x1a\n", "broken_image"),
        (b"GIF89a", "broken_image"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "broken_image"),
        (b"\0\0\1\0\0\0", "broken_image"),
        (b"\0\0\1\0", "broken_image"),
        (b"II*\0\xff\xff\xff\xff", "broken_image"),
    ],
)
def test_what_is_no_accepted_image_is_refused(source: bytes, code: str) -> None:
    for attempt in (
        lambda: identify(source, max_pixels=1_000_000),
        lambda: render(source, recipe("50x50"), **LIMITS),
    ):
        with pytest.raises(PermanentError) as caught:
            attempt()
        assert caught.value.code == code
        assert caught.value.message.endswith(".")
        assert "BytesIO" not in caught.value.message


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO"])
def test_a_truncated_image_is_refused(name: str, share: float) -> None:
    whole = encoded(Image.effect_noise((200, 200), 60).convert("RGB"), name)
    assert render(whole, recipe("50x50"), **LIMITS)
    with pytest.raises(PermanentError) as caught:
        render(whole[: int(len(whole) * share)], recipe("50x50"), **LIMITS)
    assert caught.value.code == "broken_image"
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO"])
def test_the_limit_of_pixels_is_exact(name: str) -> None:
    data = encoded(corners(50, 40), name, **({"sizes": [(50, 40)]} if name == "ICO" else {}))
    # Given just enough
    assert identify(data, max_pixels=2000)
    assert render(data, recipe("5x5"), max_pixels=2000, max_decoded_pixels=2000)
    # Then one less is not
    for attempt in (
        lambda: identify(data, max_pixels=1999),
        lambda: render(data, recipe("5x5"), max_pixels=1999, max_decoded_pixels=2000),
    ):
        with pytest.raises(PermanentError) as caught:
            attempt()
        assert caught.value.code == "too_large"
        assert "1999" in caught.value.message


@pytest.mark.parametrize(
    "source",
    [
        png_header(60_000, 60_000),
        icon(png_header(20_000, 20_000, colours=6)),
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\1\0\0;",
        tiled_tiff(60_000),
        b"RIFF\x7a\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\xff\0\xff\xff\0VP8L" + b"\0" * 100,
    ],
    ids=["png", "icon", "gif", "tile of a tiff", "webp"],
)
def test_a_bomb_is_refused_by_its_header(source: bytes) -> None:
    with pytest.raises(PermanentError) as caught:
        identify(source, max_pixels=178_000_000)
    assert caught.value.code == "too_large"
    assert "178000000" in caught.value.message


def test_an_icon_of_a_huge_bitmap_is_refused() -> None:
    bitmap = struct.pack("<IiiHHIIiiII", 40, 9000, 18000, 1, 8, 1, 0, 0, 0, 0, 0) + bytes(100)
    with pytest.raises(PermanentError) as caught:
        identify(icon(bitmap), max_pixels=178_000_000)
    assert caught.value.code == "broken_image"
    assert "9000" in caught.value.message


def test_identify_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given that decoding is forbidden
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    sources = [encoded(corners(), name) for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO")]
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    # Then identify still knows each
    assert {identify(source, max_pixels=4096).extension for source in sources} == {".jpeg", ".png", ".gif", ".webp"}
    with pytest.raises(PermanentError):
        render(sources[1], recipe("5x5"), **LIMITS)


def test_decoded_pixels_are_counted_after_the_scaled_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a JPEG and a PNG of a million pixels, and room for a fifteenth of that
    source = corners(1000, 1000)
    limits = {"max_pixels": 1_000_000, "max_decoded_pixels": 65_000}
    # Then a JPEG serves small renditions, from 1/4 of its size
    assert_quarters(
        Image.open(io.BytesIO(render(encoded(source, "JPEG"), recipe("200x200"), **limits)["200x200"])),
        RED, GREEN, BLUE, YELLOW, tolerance=20,
    )  # fmt: skip
    # But neither larger ones nor a PNG, which is not decoded to find out
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    for data, name in ((encoded(source, "JPEG"), "300x300"), (encoded(source, "PNG"), "200x200")):
        with pytest.raises(PermanentError) as caught:
            render(data, recipe(name), **limits)
        assert caught.value.code == "too_large"
        assert "65000" in caught.value.message


def test_a_text_bomb_is_refused() -> None:
    bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000_000)))
    with pytest.raises(PermanentError) as caught:
        identify(png_header(1, 1, bomb, data=b"\0\0\0\0"), max_pixels=100)
    assert caught.value.code == "broken_image"


@pytest.mark.parametrize("where", ["load", "getexif", "resize", "save"])
def test_too_little_memory_is_worth_another_attempt(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    data = encoded(corners(), "PNG")
    monkeypatch.setattr(PngImagePlugin.PngImageFile if where == "load" else Image.Image, where, fail)
    with pytest.raises(RetryableError) as caught:
        render(data, recipe("5x5"), **LIMITS)
    assert caught.value.code == "out_of_memory"


SAMPLES = [encoded(corners(24, 16), name) for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO")]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good image with some of its bytes changed."""
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=8)):
        data[place] = value
    return bytes(data[: draw(st.integers(len(data) // 2, len(data)))])


@settings(deadline=None, max_examples=300, derandomize=True)
@given(source=st.one_of(st.binary(max_size=200), damaged()))
def test_whatever_the_bytes_only_our_own_errors_come_out(source: bytes) -> None:
    try:
        result = render(source, recipe("5x5", fit="contain"), **LIMITS)
    except (PermanentError, RetryableError):
        return
    assert Image.open(io.BytesIO(result["5x5"])).size == (5, 5)


# The recipe


def test_a_recipe_travels() -> None:
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
    first = recipe("50x50", "250X250").content_id(b"source")
    assert first == recipe("50x50", "250X250").content_id(b"source")
    assert len(first) == 32
    assert set(first) <= set("0123456789abcdef")


def test_any_difference_makes_another_id(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given ids of sources and recipes that differ in one thing each
    base = recipe("50x50", "250X250")
    ids = [
        base.content_id(b"source"),
        base.content_id(b"source\0"),
        base.content_id(b""),
        recipe("50x50", "250x250").content_id(b"source"),
        recipe("50x50").content_id(b"source"),
        recipe("50x50", "250X250", fit="fill").content_id(b"source"),
    ]
    # And of a later version, or with another quality
    with monkeypatch.context() as patch:
        patch.setattr(images, "RECIPE_VERSION", 2)
        ids.append(base.content_id(b"source"))
    monkeypatch.setattr(images, "ENCODER_SETTINGS", {**images.ENCODER_SETTINGS, "JPEG": {"quality": 1}})
    ids.append(base.content_id(b"source"))
    # Then no two are alike
    assert len(set(ids)) == len(ids)


def test_ids_stay_what_they_are() -> None:
    """Fails when ids change for all covers at once: then RECIPE_VERSION or the encoder settings did, on purpose."""
    assert recipe("50x50", "250X250", "800x800").content_id(b"source") == "8d27859922811838565babe99e3312ca"


def test_the_same_input_gives_the_same_bytes() -> None:
    for name in ("JPEG", "PNG", "GIF", "WEBP"):
        data = encoded(corners(100, 80), name)
        assert render(data, recipe("50x50", "20x20"), **LIMITS) == render(data, recipe("50x50", "20x20"), **LIMITS)
