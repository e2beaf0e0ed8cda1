"""Examines the header of a source that was rendered, for a person. Runs in the sandbox."""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

from PIL import ExifTags, ImageCms

from pipeline.images.details.examination import MAX_NAME
from pipeline.images.opening import open_image
from pipeline.text import shorten

#: Words for Pillow's modes; others are shown as they are.
_COLOURS: Final = {
    "1": "black and white",
    "L": "grey",
    "I;16": "grey of 16 bits",
    "I;16B": "grey of 16 bits",
    "I": "grey of 32 bits",
    "F": "grey of 32 bits",
    "LA": "grey with alpha",
    "P": "palette",
    "RGBA": "RGB with alpha",
}


def examine(source: bytes, max_pixels: int) -> dict[str, Any]:
    """Return the parts of an `Examination` that are in the header of an image, as JSON types."""
    opened = open_image(source, max_pixels)
    image, orientation = opened.image, opened.orientation
    if opened.format == "TIFF":  # Pillow applies it while decoding, so `opened` does not have it
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return {
        "colours": _COLOURS.get(image.mode, image.mode),
        "profile": None if opened.profile is None else _name(opened.profile),
        "orientation": orientation if orientation in range(1, 9) else 1,
    }


def _name(profile: bytes) -> str:
    """Return the name of an ICC profile. Profiles that stand for the colour chunks of a PNG or AVIF have none."""
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError):
        return "unreadable"
    return shorten(name, MAX_NAME) or "without a name"
