"""The ICC profiles that are made here, compared with published colorants and with earlier versions."""

from __future__ import annotations

import hashlib
import struct
from io import BytesIO

import pytest
from PIL import Image, ImageCms

from pipeline.images import colour
from pipeline.images.colour import png_profile, press_profile, rgb_profile, srgb_conversion

SRGB, DISPLAY_P3 = colour._PRIMARIES[1], colour._PRIMARIES[12]
P3_CHUNK = struct.pack(">8I", *(round(each * 100_000) for each in DISPLAY_P3))


def tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = (struct.unpack_from(">4s2I", profile, 132 + 12 * n) for n in range(count))
    return {name: profile[start : start + size] for name, start, size in entries}


def light(tag: bytes) -> tuple[float, ...]:
    return tuple(each / 65_536 for each in struct.unpack_from(">3i", tag, 8))


def gamma(value: float) -> dict[bytes, bytes]:
    return {b"gAMA": struct.pack(">I", round(value * 100_000))}


@pytest.mark.parametrize(
    ("chromaticities", "colorants"),
    [
        (SRGB, [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)]),
        (DISPLAY_P3, [(0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)]),
    ],
)
def test_colorants_match_published_values(
    chromaticities: tuple[float, ...], colorants: list[tuple[float, ...]]
) -> None:
    found = tags(rgb_profile(chromaticities, None))
    for name, expected in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True):
        assert light(found[name]) == pytest.approx(expected, abs=0.0005)
    assert light(found[b"wtpt"]) == pytest.approx((0.9642, 1, 0.8249), abs=0.0001)


def test_curves_are_srgbs_or_an_exponent() -> None:
    own, exponent = (tags(rgb_profile(SRGB, each))[b"gTRC"] for each in (None, 1.8))
    assert (own[:4], struct.unpack_from(">H", own, 8)) == (b"para", (3,))
    expected = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    assert [each / 65_536 for each in struct.unpack_from(">5i", own, 12)] == pytest.approx(expected, abs=0.0001)
    assert (exponent[:4], struct.unpack_from(">Hxxi", exponent, 8)) == (b"para", (0, round(1.8 * 65_536)))


def test_littlecms_recognizes_the_srgb_profile() -> None:
    profile = ImageCms.ImageCmsProfile(BytesIO(rgb_profile(SRGB, None))).profile
    assert (profile.version, profile.device_class, profile.xcolor_space.strip()) == (4.2, "mntr", "RGB")
    assert profile.connection_space.strip() == "XYZ"


def test_profiles_are_stable() -> None:
    # Another profile gives other pixels: then RECIPE_VERSION must be raised, too.
    made = (press_profile(), rgb_profile(SRGB, None), rgb_profile(DISPLAY_P3, 2.2))
    assert [(len(profile), hashlib.sha256(profile).hexdigest()[:16]) for profile in made] == [
        (14664, "d55546cea86e82c0"),
        (392, "0c61fd99aa73fb08"),
        (344, "17bbafbb3bcf9e8c"),
    ]


@pytest.mark.parametrize(
    ("coding_points", "expected"),
    [
        ((1, 13, 0, 1), rgb_profile(SRGB, None)),
        ((12, 13, 0, 1), rgb_profile(DISPLAY_P3, None)),
        ((12, 1, 0, 1), rgb_profile(DISPLAY_P3, None)),
        ((9, 8, 0, 1), rgb_profile(colour._PRIMARIES[9], 1.0)),
        ((11, 4, 0, 1), rgb_profile(colour._PRIMARIES[11], 2.2)),
        ((12, 13, 1, 1), b"embedded"),
        ((12, 13, 0, 0), b"embedded"),
        ((2, 13, 0, 1), b"embedded"),
        ((12, 16, 0, 1), b"embedded"),
        ((12, 13, 0), b"embedded"),
        ((12, 13, 0, 1, 0), b"embedded"),
    ],
)
def test_coding_points_come_before_an_embedded_profile(coding_points: tuple[int, ...], expected: bytes) -> None:
    assert png_profile({b"cICP": bytes(coding_points), **gamma(1.0)}, b"embedded") == expected


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ({}, None),
        (gamma(0.5), rgb_profile(SRGB, 2.0)),
        (gamma(0.45455), rgb_profile(SRGB, None)),
        (gamma(1.04 / 2.2), rgb_profile(SRGB, None)),
        (gamma(0.96 / 2.2), rgb_profile(SRGB, None)),
        (gamma(0.48), rgb_profile(SRGB, 1 / 0.48)),
        (gamma(0.43), rgb_profile(SRGB, 1 / 0.43)),
        (gamma(10), rgb_profile(SRGB, 0.1)),
        (gamma(10.00001), None),
        (gamma(0.01), rgb_profile(SRGB, 100)),
        (gamma(0.00999), None),
        ({b"gAMA": b"\0\0\1"}, None),
        ({**gamma(0.5), b"sRGB": b"\0"}, None),
        ({**gamma(0.5), b"cHRM": P3_CHUNK}, rgb_profile(DISPLAY_P3, 2.0)),
        ({**gamma(0.5), b"cHRM": P3_CHUNK[:-1]}, rgb_profile(SRGB, 2.0)),
        ({**gamma(0.5), b"cHRM": bytes(32)}, None),
        ({b"cHRM": P3_CHUNK}, None),
    ],
)
def test_gamma_and_chromaticities_are_the_last_resort(chunks: dict[bytes, bytes], expected: bytes | None) -> None:
    assert png_profile(chunks, None) == expected
    assert png_profile(chunks, b"embedded") == b"embedded"


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_in_srgb_are_not_converted(mode: str) -> None:
    # Given a picture without a profile, or with an sRGB profile under another name
    image = Image.new(mode, (3, 2), 100 if mode == "L" else (1, 2, 3))
    for profile in (None, rgb_profile(SRGB, None), b"rubbish", press_profile()):
        same = srgb_conversion(mode, profile)(image)
        assert (same.mode, same.getpixel((0, 0))) == ("RGB", (100,) * 3 if mode == "L" else (1, 2, 3))
        assert mode == "L" or same is image
