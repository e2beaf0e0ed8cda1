"""Renditions show the colours that the source means, in sRGB, and keep its alpha."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image, ImageCms

from pipeline.images import colour
from tests.support.pictures import (
    BLACK,
    BLUE,
    CYAN_INK,
    GREEN,
    GREY,
    MAGENTA_INK,
    RED,
    WHITE,
    YELLOW,
    assert_quarters,
    corners,
    encoded,
    is_near,
    linear_grey_profile,
    linear_profile,
    png_chunk,
    png_header,
    profile_with_red_and_blue_exchanged,
    rendered,
)

# Colours


@pytest.mark.parametrize(("name", "quality"), [("JPEG", 95), ("TIFF", None)])
def test_cmyk_becomes_srgb(name: str, quality: int | None) -> None:
    # Given ink: none, all black, pure cyan, pure magenta
    source = Image.new("CMYK", (64, 64), (0, 0, 0, 0))
    source.paste((0, 0, 0, 255), (32, 0, 64, 64))
    source.paste((255, 0, 0, 0), (0, 32, 32, 64))
    source.paste((0, 255, 0, 0), (32, 32, 64, 64))
    data = encoded(source, name, **({"quality": quality} if quality else {}))
    # Then it looks as in print: white, black, and duller cyan and magenta than a screen's
    image = rendered(data)
    assert image.mode == "RGB"
    assert_quarters(image, WHITE, BLACK, CYAN_INK, MAGENTA_INK, tolerance=12)


def ramp(mode: str, top: float) -> Image.Image:
    """Return grey at a quarter, a half, three quarters and all of `top`."""
    if mode.startswith("I;16"):  # Pillow cannot paste into this mode.
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
    # Given a picture no brighter than a hundredth of white
    image = rendered(encoded(Image.new("I;16", (64, 64), 650), "PNG"))
    assert_quarters(image, *[(3,) * 3] * 4, tolerance=1)


def test_colour_of_sixteen_bits() -> None:
    # Given a PNG with 16 bits per channel, which Pillow cannot write
    rows = b"".join(b"\0" + struct.pack(">HHH", 65535, 32768, 257) * 8 for _ in range(8))
    image = rendered(png_header(8, 8, bits=16, data=rows))
    assert_quarters(image, *[(255, 128, 1)] * 4, tolerance=1)


def test_black_and_white() -> None:
    source = Image.new("1", (64, 64), 1)
    source.paste(0, (32, 0, 64, 64))
    for name in ("PNG", "TIFF", "BMP"):
        assert_quarters(rendered(encoded(source, name)), WHITE, BLACK, WHITE, BLACK)


def test_black_and_white_mix_to_grey() -> None:
    # Given a fine pattern of equal parts of black and white
    source = Image.frombytes("1", (64, 64), (b"\x55" * 8 + b"\xaa" * 8) * 32)
    assert_quarters(rendered(encoded(source, "PNG"), "16x16"), *[GREY] * 4)


def test_lab_becomes_srgb() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = rendered(encoded(ImageCms.applyTransform(corners(), to_lab), "TIFF"))
    assert_quarters(image, RED, GREEN, BLUE, YELLOW, tolerance=24)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_an_embedded_profile_is_applied(name: str) -> None:
    # Given a picture whose profile exchanges red and blue
    data = encoded(corners(), name, icc_profile=profile_with_red_and_blue_exchanged(), quality=95)
    image = rendered(data)
    # Then it looks accordingly: cyan where yellow was
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
def test_a_broken_or_unsuitable_profile_is_ignored(profile: bytes) -> None:
    data = encoded(corners(), "PNG", icc_profile=profile)
    assert_quarters(rendered(data), RED, GREEN, BLUE, YELLOW)


# Alpha


@pytest.mark.parametrize("kind", ["index", "alphas"])
def test_transparency_of_a_palette_is_kept(kind: str) -> None:
    # Given a palette whose first colour is transparent, or whose colours each have an alpha
    source = Image.new("P", (64, 64), 1)
    source.putpalette([*RED, *GREEN, *BLUE])
    source.paste(0, (0, 0, 32, 64))
    data = encoded(source, "PNG", transparency=0 if kind == "index" else bytes([0, 100]))
    # When it is rendered
    image = rendered(data)
    # Then the result has the same transparency
    assert image.mode == "RGBA"
    assert image.getpixel((5, 20))[3] == 0
    assert image.getpixel((35, 20)) == (*GREEN, 255 if kind == "index" else 100)


def test_transparency_of_a_colour_is_kept() -> None:
    image = rendered(encoded(corners(), "PNG", transparency=RED))
    assert image.getpixel((5, 5))[3] == 0
    assert image.getpixel((35, 35)) == (*YELLOW, 255)


def test_transparency_of_a_gif_is_kept() -> None:
    # Given a GIF with a hole, surrounded by more than enough colours
    source = Image.merge("RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.linear_gradient("L")])
    source = source.convert("RGBA")
    source.paste((0, 0, 0, 0), (64, 64, 192, 192))
    image = rendered(encoded(source, "GIF"), "100x100").convert("RGBA")
    assert image.getpixel((50, 50))[3] == 0
    assert [image.getpixel(place)[3] for place in ((5, 5), (95, 5), (5, 95), (95, 95))] == [255] * 4
    assert is_near(image.getpixel((50, 97)), source.resize((100, 100)).getpixel((50, 97)), 24)


@pytest.mark.parametrize(("name", "tolerance"), [("PNG", 2), ("WEBP", 12)])
def test_edges_do_not_darken(name: str, tolerance: int) -> None:
    # Given red next to transparent black
    source = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    source.paste((*RED, 255), (0, 0, 101, 256))
    image = rendered(encoded(source, name, lossless=True), "40x40")
    # Then partly transparent pixels are fully red
    edge = [image.getpixel((x, 20)) for x in range(40) if 40 < image.getpixel((x, 20))[3] < 250]
    assert edge
    assert all(is_near(pixel[:3], RED, tolerance) for pixel in edge)


def test_an_opaque_alpha_channel_is_dropped() -> None:
    assert rendered(encoded(corners().convert("RGBA"), "PNG")).mode == "RGB"


# Colours in ways of particular formats


def test_a_cmyk_jpeg_without_adobes_marker_is_read_as_browsers_do() -> None:
    # Given that Adobe writes no ink as 255, and that browsers read every CMYK JPEG as Adobe's
    source = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    data = encoded(source, "JPEG", quality=95)
    start = data.index(b"\xff\xee")
    plain = data[:start] + data[start + 16 :]
    assert b"Adobe" not in plain
    assert_quarters(rendered(plain), *[CYAN_INK] * 4, tolerance=8)


def test_ycck_is_converted_to_light_and_black() -> None:
    # Given a YCCK JPEG: light 100 of 255 without colour, black ink 205
    data = bytearray(encoded(Image.new("CMYK", (64, 64), (155, 127, 127, 205)), "JPEG", quality=100))
    data[data.index(b"Adobe") + 11] = 2
    expected = rendered(encoded(Image.new("CMYK", (64, 64), (100, 100, 100, 205)), "TIFF"))
    assert_quarters(rendered(bytes(data)), *[expected.getpixel((5, 5))] * 4, tolerance=4)


def test_an_embedded_cmyk_profile_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a press whose cyan is green
    monkeypatch.setattr(colour, "_INKS", {**colour._INKS, (1, 0, 0): (50, -65, 27)})
    profile = colour.press_profile.__wrapped__()
    for name in ("JPEG", "TIFF"):
        data = encoded(Image.new("CMYK", (64, 64), (255, 0, 0, 0)), name, icc_profile=profile)
        assert_quarters(rendered(data), *[(0, 148, 57)] * 4, tolerance=8)


def test_paper_is_white_and_ink_is_black_on_every_press() -> None:
    # Given a press with yellowish paper, whose darkest ink still reflects a twentieth of the light
    profile = colour.press_profile()
    yellowish = b"XYZ \0\0\0\0" + struct.pack(">3i", 55_000, 59_000, 40_000)
    profile = profile.replace(b"XYZ \0\0\0\0" + struct.pack(">3i", 63_190, 65_536, 54_061), yellowish)
    profile = profile.replace(b"prtr", b"scnr").replace(b"A2B0", b"A2B1")  # A table for relative colours.
    start = profile.index(b"mft2") + 52 + 4 * 4
    table = struct.unpack_from(f">{7**4 * 3}H", profile, start)
    pale = [round(value + (table[index % 3] - value) / 20) for index, value in enumerate(table)]
    profile = profile[:start] + struct.pack(f">{len(pale)}H", *pale) + profile[start + 2 * len(pale) :]
    assert yellowish in profile
    # Then renditions have pure black and pure white
    for ink, expected in (((0, 0, 0, 0), WHITE), ((0, 0, 0, 255), BLACK), ((255, 255, 255, 255), BLACK)):
        data = encoded(Image.new("CMYK", (64, 64), ink), "TIFF", icc_profile=profile)
        assert_quarters(rendered(data), *[expected] * 4, tolerance=2)


def tiff(tags: dict[int, int], pixels: bytes) -> bytes:
    """Make a TIFF of one strip with these numeric tags."""
    strip = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags = dict(sorted({**tags, 273: strip, 279: len(pixels)}.items()))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


@pytest.mark.parametrize("photometric", [1, 0], ids=["black is zero", "white is zero"])
def test_grey_of_sixteen_bits_in_a_tiff(photometric: int) -> None:
    pixels = struct.pack("<64H", *[0x4000] * 64)
    image = rendered(tiff({256: 8, 257: 8, 258: 16, 259: 1, 262: photometric, 277: 1, 278: 8}, pixels))
    assert_quarters(image, *[(64,) * 3 if photometric else (191,) * 3] * 4, tolerance=1)


def test_grey_of_twelve_bits_has_the_right_brightness() -> None:
    # Given two pixels in three bytes, each half of 4095
    data = tiff({256: 8, 257: 8, 258: 12, 259: 1, 262: 1, 277: 1, 278: 8}, b"\x80\x08\x00" * 32)
    assert_quarters(rendered(data), *[GREY] * 4, tolerance=1)


@pytest.mark.parametrize(
    ("space", "exponent", "expected"),
    [
        ((0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060), None, (215, 93, 31)),  # Display P3
        ((0.3127, 0.3290, 0.640, 0.330, 0.210, 0.710, 0.150, 0.060), 563 / 256, (228, 100, 42)),  # Adobe RGB (1998)
        ((0.3127, 0.3290, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060), None, (200, 100, 50)),  # sRGB
        ((0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), 1.8, None),  # ProPhoto RGB
    ],
    ids=["p3", "adobe", "srgb", "prophoto"],
)
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_wide_colour_spaces_become_srgb(
    name: str, space: tuple[float, ...], exponent: float | None, expected: tuple[int, ...] | None
) -> None:
    # Given brown and neutral pixels in a colour space
    profile = colour.rgb_profile(space, exponent)
    brown = Image.new("RGB", (64, 64), (200, 100, 50))
    grey = Image.new("RGB", (64, 64), GREY)
    options = {"icc_profile": profile, "quality": 95}
    # Then brown is as in other colour engines, and grey, white and black have no tint
    if expected:
        assert_quarters(rendered(encoded(brown, name, **options)), *[expected] * 4, tolerance=5)
    for image in (grey, Image.new("RGB", (64, 64), WHITE), Image.new("RGB", (64, 64), BLACK)):
        result = rendered(encoded(image, name, **options)).convert("RGB").getpixel((5, 5))
        assert max(result) - min(result) <= 2


def test_an_srgb_profile_changes_nothing() -> None:
    source = Image.merge(
        "RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256), 90)]
    )
    # Given an sRGB profile with other rounding
    profile = colour.rgb_profile((0.3127, 0.3290, 0.6403, 0.330, 0.300, 0.6003, 0.150, 0.060), None)
    with_profile = rendered(encoded(source, "PNG", icc_profile=profile), "100x100")
    assert with_profile.tobytes() == rendered(encoded(source, "PNG"), "100x100").tobytes()


P3 = png_chunk(b"cICP", bytes([12, 13, 0, 1]))
LINEAR = png_chunk(b"gAMA", struct.pack(">I", 100_000))
SRGB = png_chunk(b"sRGB", b"\0")
USUAL = png_chunk(b"gAMA", struct.pack(">I", 45_455))
WRONG = png_chunk(b"gAMA", bytes(4)) + png_chunk(b"cHRM", bytes(32))
WIDE = USUAL + png_chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
EXCHANGED = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(profile_with_red_and_blue_exchanged()))
BOMB = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(30_000_000)))


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (b"", (200, 100, 50)),
        (USUAL, (200, 100, 50)),
        (LINEAR, (229, 168, 122)),
        (SRGB + LINEAR, (200, 100, 50)),
        (WIDE, (215, 93, 31)),
        (WRONG, (200, 100, 50)),
        (P3, (215, 93, 31)),
        (EXCHANGED, (50, 100, 200)),
        (EXCHANGED + LINEAR, (50, 100, 200)),
        (EXCHANGED + P3, (215, 93, 31)),
        (BOMB, (200, 100, 50)),
        (BOMB + LINEAR, (229, 168, 122)),
    ],
    ids=[
        "none",
        "usual",
        "linear",
        "srgb",
        "wide",
        "wrong",
        "p3",
        "profile",
        "profile-gamma",
        "profile-p3",
        "bomb",
        "bomb-gamma",
    ],
)
def test_a_png_defines_its_colours_in_chunks(chunks: bytes, expected: tuple[int, ...]) -> None:
    rows = (b"\0" + bytes((200, 100, 50)) * 8) * 8
    assert_quarters(rendered(png_header(8, 8, chunks, data=rows)), *[expected] * 4, tolerance=3)


@pytest.mark.parametrize(
    ("bits", "colours", "hidden", "row", "shown"),
    [
        (
            16,
            2,
            (65535, 1000, 0),
            struct.pack(">3H", 65535, 1000, 0) * 4 + struct.pack(">3H", 0, 1000, 0) * 4,
            (0, 3, 0),
        ),
        (16, 0, (1000,), struct.pack(">4H", *[1000] * 4) + struct.pack(">4H", *[1001] * 4), (4, 4, 4)),
        (8, 0, (7,), bytes([7] * 4 + [8] * 4), (8, 8, 8)),
        (4, 0, (3,), b"\x33\x33\xcc\xcc", (204,) * 3),
        (2, 0, (1,), b"\x55\xaa", (170,) * 3),
        (1, 0, (1,), b"\xf0", (0, 0, 0)),
    ],
    ids=["16-bit colour", "16-bit grey", "grey", "4-bit grey", "2-bit grey", "black and white"],
)
def test_the_transparent_colour_of_a_png_of_any_depth(
    bits: int, colours: int, hidden: tuple[int, ...], row: bytes, shown: tuple[int, ...]
) -> None:
    # Given a left half in the colour that is marked as transparent
    chunk = png_chunk(b"tRNS", struct.pack(f">{len(hidden)}H", *hidden))
    image = rendered(png_header(8, 8, chunk, bits=bits, colours=colours, data=(b"\0" + row) * 8), "8x8")
    # Then the left half is transparent, and the right half is not
    assert image.mode == "RGBA"
    assert image.getpixel((1, 4))[3] == 0
    assert is_near(image.getpixel((6, 4)), (*shown, 255), 1)


# Frames smaller than their canvas


def animation(*, has_default: bool) -> bytes:
    """Make an APNG with a blue still picture, and red in the lower right as first frame, or blue and then red."""
    pixels = encoded(Image.new("RGB", (64, 64), BLUE), "PNG")
    image = pixels[pixels.index(b"IDAT") - 4 : -12]
    part = zlib.compress((b"\0" + bytes(RED) * 32) * 32)
    head = png_chunk(b"acTL", struct.pack(">II", 2 - has_default, 0))
    first = png_chunk(b"fcTL", struct.pack(">5IHHBB", 0, 64, 64, 0, 0, 1, 10, 0, 0))
    second = png_chunk(b"fcTL", struct.pack(">5IHHBB", 0 if has_default else 1, 32, 32, 32, 32, 1, 10, 0, 0))
    second += png_chunk(b"fdAT", struct.pack(">I", 1 if has_default else 2) + part)
    return pixels[:33] + head + (b"" if has_default else first) + image + second + png_chunk(b"IEND", b"")


def test_an_animated_png_shows_its_first_frame_and_not_its_still_picture() -> None:
    image = rendered(animation(has_default=True)).convert("RGBA")
    assert [image.getpixel(at)[3] for at in ((5, 5), (35, 5), (5, 35), (35, 35))] == [0, 0, 0, 255]
    assert is_near(image.getpixel((35, 35))[:3], RED)


def test_an_animated_png_whose_still_picture_is_a_frame_shows_it() -> None:
    data = animation(has_default=False)
    assert_quarters(rendered(data), *[BLUE] * 4)
    # Also if the control of that frame comes before the control of the animation.
    start, middle, end = (data.index(name) - 4 for name in (b"acTL", b"fcTL", b"IDAT"))
    assert_quarters(rendered(data[:start] + data[middle:end] + data[start:middle] + data[end:]), *[BLUE] * 4)


def test_an_animation_without_frames_is_a_still_picture() -> None:
    data = animation(has_default=True)
    start = data.index(b"acTL") - 4
    data = data[:start] + png_chunk(b"acTL", bytes(8)) + data[start + 20 :]
    assert_quarters(rendered(data), *[BLUE] * 4)


# Small pictures
