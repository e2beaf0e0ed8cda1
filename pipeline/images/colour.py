"""Colours: from the colour space of a source to 8-bit sRGB.

Profiles are applied as in browsers and Photoshop. The intent is relative colorimetric, so white stays white and colours
within sRGB do not change. Black point compensation makes the darkest ink of a press black instead of grey.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from itertools import product
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms

Vector = tuple[float, ...]  # of three
Conversion = Callable[[Image.Image], Image.Image]

#: Pillow's modes by the colour space of a profile (ICC.1, table 19).
_MODES: Final = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
#: Differences up to this many of 255 steps are rounding. A profile that changes no colour by more counts as sRGB.
_ROUNDING: Final = 2


def srgb_conversion(mode: str, profile: bytes | None) -> Conversion:
    """Return a function that converts images without alpha to mode RGB in sRGB.

    Args:
        mode: the mode of the images.
        profile: the ICC profile of the source. A broken profile, or one for another colour space, counts as none.
            Without a profile, RGB and grey are sRGB, and CMYK is ink on coated paper.
    """
    plain = mode if mode in ("L", "CMYK", "LAB") else "RGB"
    if plain == "LAB":
        return _transform(ImageCms.createProfile("LAB"), "LAB")
    if profile and (found := _embedded(profile, plain)):
        return found
    if plain == "CMYK":
        return _transform(ImageCms.ImageCmsProfile(BytesIO(press_profile())), "CMYK")
    return lambda image: image if image.mode == "RGB" else image.convert("RGB")


def _embedded(profile: bytes, mode: str) -> Conversion | None:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        own = _MODES.get(source.profile.xcolor_space)
        if own is None or (own != mode and (own, mode) != ("RGB", "L")):
            return None
        conversion = _transform(source, own)
        return None if own == "RGB" and _changes_nothing(conversion) else conversion
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _transform(source: Any, mode: str) -> Conversion:
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    srgb = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(source, srgb, mode, "RGB", intent, flags)
    return lambda image: transform.apply(image.convert(mode))


def _changes_nothing(conversion: Conversion) -> bool:
    """Test with 27 colours whether a conversion can be skipped. Most profiles are those of sRGB."""
    probe = bytes(channel for colour in product((16, 128, 240), repeat=3) for channel in colour)
    result = conversion(Image.frombytes("RGB", (27, 1), probe)).tobytes()
    return all(abs(before - after) <= _ROUNDING for before, after in zip(probe, result, strict=True))


# Colour information in the chunks of a PNG, and in a box of an AVIF


#: x and y of white, red, green and blue, by their code in ITU-T H.273.
_PRIMARIES: Final = {
    1: (0.3127, 0.3290, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),  # BT.709, as sRGB
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI-P3
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
#: Exponents of transfer curves by their code. None is sRGB's curve, which also serves for those of television.
_EXPONENTS: Final = {1: None, 4: 2.2, 5: 2.8, 6: None, 8: 1.0, 13: None, 14: None, 15: None}
#: The codes that most AVIFs have. Building a profile takes 4 ms before it turns out to change nothing.
_SRGB: Final = {(1, curve) for curve, exponent in _EXPONENTS.items() if exponent is None}
_SRGB_GAMMA: Final = 1 / 2.2  # as in a gAMA chunk


def png_profile(chunks: Mapping[bytes, bytes], embedded: bytes | None) -> bytes | None:
    """Return an ICC profile for the colours of a PNG, or None for sRGB.

    The chunks have the precedence that the specification defines: cICP, iCCP, sRGB, then gAMA with cHRM. A gamma within
    5 % of 1/2.2 counts as sRGB, as in libpng, because most encoders mean that.

    Args:
        chunks: the chunks sRGB, cICP, gAMA and cHRM by name.
        embedded: the profile in the chunk iCCP.
    """
    coding_points = chunks.get(b"cICP", b"")
    primaries, curve, matrix, is_full = tuple(coding_points) if len(coding_points) == 4 else (0, 0, 1, 0)
    if matrix == 0 and is_full and (coded := _coded_profile(primaries, curve)):
        return coded
    if embedded or b"sRGB" in chunks or len(chunks.get(b"gAMA", b"")) != 4:
        return embedded
    gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 100_000
    if not 0.01 <= gamma <= 10:
        return None
    chromaticities = _PRIMARIES[1]
    if len(chunks.get(b"cHRM", b"")) == 32:
        chromaticities = tuple(each / 100_000 for each in struct.unpack(">8I", chunks[b"cHRM"]))
    is_srgb = abs(gamma / _SRGB_GAMMA - 1) < 0.05
    try:
        return rgb_profile(chromaticities, None if is_srgb else 1 / gamma)
    except (ArithmeticError, np.linalg.LinAlgError, struct.error):
        return None


def avif_profile(coding_points: tuple[int, int] | None, embedded: bytes | None) -> bytes | None:
    """Return an ICC profile for the colours of an AVIF, or None for sRGB.

    An embedded profile counts more than the box nclx (ISO/IEC 23000-22, section 7.3.6.4). The decoder has already
    applied the matrix and the range in that box.

    Args:
        coding_points: the primaries and the transfer curve in the box nclx.
        embedded: the embedded profile.
    """
    if embedded or coding_points is None or coding_points in _SRGB:
        return embedded
    return _coded_profile(*coding_points)


def _coded_profile(primaries: int, curve: int) -> bytes | None:
    """Return an ICC profile for two codes in ITU-T H.273, or None if one of them is unspecified or not supported."""
    if primaries in _PRIMARIES and curve in _EXPONENTS:
        return rgb_profile(_PRIMARIES[primaries], _EXPONENTS[curve])
    return None


def rgb_profile(chromaticities: tuple[float, ...], exponent: float | None) -> bytes:
    """Return an ICC profile for an RGB colour space.

    Args:
        chromaticities: x and y of white, red, green and blue.
        exponent: of the transfer curve; None is the curve of sRGB.

    Raises:
        ArithmeticError: the chromaticities are impossible.
        LinAlgError: the chromaticities are impossible.
        struct.error: the chromaticities are impossible.
    """
    white, *primaries = (_xyz(x, y) for x, y in zip(chromaticities[::2], chromaticities[1::2], strict=True))
    columns = np.transpose(primaries)
    bradford = np.array(_BRADFORD)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        columns = columns * np.linalg.solve(columns, white)
        # ICC profiles describe colours under D50: adapt them by von Kries' method with the Bradford matrix.
        gains = (bradford @ _D50) / (bradford @ white)
        adapted = np.linalg.solve(bradford, np.diag(gains) @ bradford @ columns).T.tolist()
    if exponent is None:
        curve = struct.pack(
            ">4s4xHH5i", b"para", 3, 0, *map(_fixed, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
        )
    else:
        curve = struct.pack(">4s4xHHi", b"para", 0, 0, _fixed(exponent))
    tags = {name: _xyz_tag(each) for name, each in zip((b"rXYZ", b"gXYZ", b"bXYZ"), adapted, strict=True)}
    return _profile(b"mntr", b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


_D50: Final = (0.9642, 1.0, 0.8249)  # ICC.1, section 7.2.16
_BRADFORD: Final = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def _xyz(x: float, y: float) -> Vector:
    return x / y, 1.0, (1 - x - y) / y


def _fixed(value: float) -> int:
    return round(value * 65_536)


def _xyz_tag(light: Vector) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *map(_fixed, light))


# CMYK without a profile


#: CIELAB of paper and of solid cyan, magenta and yellow on it. ISO 12647-2:2004, paper types 1 and 2.
_INKS: Final = {
    (0, 0, 0): (95, 0, -2),
    (1, 0, 0): (55, -37, -50),
    (0, 1, 0): (48, 74, -3),
    (0, 0, 1): (91, -5, 93),
    (0, 1, 1): (47, 68, 48),
    (1, 0, 1): (50, -65, 27),
    (1, 1, 0): (24, 22, -46),
    (1, 1, 1): (23, 0, 0),
}
_BLACK_INK: Final = (16, 0, 0)
#: Yule and Nielsen's n for the optical growth of ink dots. With 1.6, 50 % looks like 64 %, which agrees with ISO.
_DOT_GAIN: Final = 1.6
_STEPS: Final = 7  # per ink in the table; more steps change no colour by more than 2 of 255


@cache
def press_profile() -> bytes:
    """Return an ICC profile of CMYK ink on coated paper, by Neugebauer's equations.

    Paper is white and black ink is black. Without a profile, pure cyan would be (0, 255, 255), which no ink can print.
    """
    paper, black = _light(_INKS[0, 0, 0]), _light(_BLACK_INK)
    solids = {
        inks: tuple(max(0.0, (part - k) / (w - k)) for part, w, k in zip(_light(lab), paper, black, strict=True))
        for inks, lab in _INKS.items()
    }
    roots = {inks: tuple(part ** (1 / _DOT_GAIN) for part in light) for inks, light in solids.items()}
    table: list[int] = []
    levels = [step / (_STEPS - 1) for step in range(_STEPS)]
    for *amounts, k in product(levels, repeat=4):
        light = [0.0, 0.0, 0.0]
        for inks, root in roots.items():
            share = 1 - k
            for ink, amount in zip(inks, amounts, strict=True):
                share *= amount if ink else 1 - amount
            for index in range(3):
                light[index] += share * root[index]
        table += [round(part**_DOT_GAIN * white * 32_768) for part, white in zip(light, _D50, strict=True)]
    # lut16Type: 4 channels in, 3 out, with identity for the matrix and the curves
    head = struct.pack(">4s4x3Bx9i2H", b"mft2", 4, 3, _STEPS, *_IDENTITY, 2, 2)
    straight = struct.pack(">2H", 0, 65_535)
    lut = head + straight * 4 + struct.pack(f">{len(table)}H", *table) + straight * 3
    return _profile(b"prtr", b"CMYK", {b"A2B0": lut})


_IDENTITY: Final = (65_536, 0, 0, 0, 65_536, 0, 0, 0, 65_536)


def _light(lab: Vector) -> Vector:
    """Convert CIELAB to CIE XYZ, in which white has Y = 1."""
    middle = (lab[0] + 16) / 116
    parts = (middle + lab[1] / 500, middle, middle - lab[2] / 200)
    return tuple(part**3 if part > 6 / 29 else (part - 4 / 29) * 3 * (6 / 29) ** 2 for part in parts)


def _profile(device: bytes, space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    """Build an ICC profile of version 4.2 (ICC.1, section 7)."""
    tags = {b"wtpt": _xyz_tag(_D50), **tags}
    offset, directory, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        directory += name + struct.pack(">2I", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s28x3i", offset + len(body), 0x04200000, device, space, b"XYZ ", b"acsp",
                         *map(_fixed, _D50))  # fmt: skip
    return header.ljust(128, b"\0") + directory + body
