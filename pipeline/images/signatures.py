"""Signatures: the format that the first bytes of a file indicate. Without image libraries, because metrics read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

#: Patterns for the first kilobyte of a source, by the name of its format. Some formats are only recognized.
_BEGINNINGS: Final[Mapping[str, bytes]] = {
    "AVIF": rb"....ftyp(?:.{4}){0,16}?avi[fs]",  # before HEIC, because some files contain both brands
    "HEIC": rb"....ftyp(?:hei|hev|mif1|msf1)",
    "SVG": rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.{,500}?|<!--.{,500}?|<!DOCTYPE svg.{,300}?)?<svg",
    "PDF": rb"%PDF-",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "Photoshop": rb"8BPS",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM(?:.{4}\0{4}|.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0)",  # or a known header size
    "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "ICO": rb"\0\0\x01\0",
}

#: All formats that are recognized, accepted or not.
KNOWN_FORMATS: Final = tuple(_BEGINNINGS)


def format_of(source: bytes) -> str | None:
    """Return the name of the format that the first bytes indicate, or None if they are unknown."""
    head = source[:1024]
    return next((name for name, start in _BEGINNINGS.items() if re.match(start, head, re.DOTALL)), None)
