"""Runs in the child: renders a source as the service does, and checks its renditions.

It renders without the sandbox, which would refuse an image that kills its decoder. Here that counts as a crash.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Final

from PIL import Image

from pipeline.errors import PermanentError
from pipeline.images.formats import format_by_extension
from pipeline.images.identify import identify
from pipeline.images.render import render
from pipeline.recipe import Recipe
from pipeline.settings import get_settings, parse_rendition

#: Modes with 8 bits per channel.
_MODES: Final = {"L", "LA", "P", "RGB", "RGBA", "CMYK"}

#: Entries of `Image.info` that describe the compression, so they are not metadata.
_NOT_METADATA: Final = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "progressive", "progression", "adobe"} | {
    "adobe_transform", "version", "background", "transparency", "extension", "duration", "loop", "timestamp",
    "default_image", "interlace",
}  # fmt: skip


class Wrong(Exception):
    """A rendition fails a check."""


def rendered(source: bytes) -> dict[str, bytes]:
    """Render a source as fetch and resize do; returns the renditions by `<name><extension>`.

    Raises:
        PipelineError: those stages would raise it.
    """
    settings = get_settings()
    if len(source) > settings.max_source_bytes:
        raise PermanentError("too_large", f"The source is {len(source)} bytes long.")
    recipe = Recipe(settings.renditions, settings.resize_fit)
    extension = identify(source, max_pixels=settings.max_source_pixels).extension
    made = render(source, recipe, max_pixels=settings.max_source_pixels, max_decoded_pixels=settings.max_decoded_pixels)
    return {name + extension: data for name, data in made.items()}


def check(made: Mapping[str, bytes]) -> str:
    """Check each rendition's size, format, depth, frames and metadata; returns their format.

    Raises:
        Wrong: a rendition fails a check.
    """
    formats = set()
    for name, data in made.items():
        size_name, _, suffix = name.partition(".")
        size, expected = parse_rendition(size_name), format_by_extension(f".{suffix}").name
        with Image.open(BytesIO(data), formats=[expected]) as image:
            frames, metadata = getattr(image, "n_frames", 1), {**getattr(image, "text", {})}
            image.load()
            metadata |= {key: value for key, value in image.info.items() if key not in _NOT_METADATA}
            metadata |= image.getexif()
        is_as_wanted = {
            f"size {image.size}": image.size == (size.width, size.height),
            f"frames {frames}": frames == 1,
            f"mode {image.mode}": image.mode in _MODES,
            f"metadata {sorted(map(str, metadata))}": not metadata,
        }
        wrong = [what for what, good in is_as_wanted.items() if not good]
        if wrong:
            raise Wrong(f"{name}: {', '.join(wrong)}")
        formats.add(expected)
    return " ".join(sorted(formats))
