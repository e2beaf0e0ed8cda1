"""In the child: one source rendered as the service would, and its renditions looked at."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Final

from PIL import Image

import pipeline.actors  # noqa: F401 - builds the broker, on which the actors are declared
from actors.resize import render  # the stage's own, in a module as large as a worker's
from pipeline.errors import PermanentError
from pipeline.images.formats import format_by_extension
from pipeline.images.render import identify
from pipeline.recipe import Recipe
from pipeline.settings import get_settings, parse_rendition

#: Modes of 8 bits a channel.
_MODES: Final = {"L", "LA", "P", "RGB", "RGBA", "CMYK"}

#: What Pillow finds in files that hold nothing but pixels, and how they are compressed.
_NOT_METADATA: Final = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "progressive", "progression", "adobe"} | {
    "adobe_transform", "version", "background", "transparency", "extension", "duration", "loop", "timestamp",
    "default_image", "interlace",
}  # fmt: skip


class Wrong(Exception):
    """A rendition is not what it should be."""


def rendered(source: bytes) -> dict[str, bytes]:
    """The renditions of a source by `<name><extension>`, as the stages fetch and resize make them together.

    Raises:
        PipelineError: what those stages would.
    """
    settings = get_settings()
    if len(source) > settings.max_source_bytes:
        raise PermanentError("too_large", f"The source is {len(source)} bytes long.")
    recipe = Recipe(settings.renditions, settings.resize_fit)
    extension = identify(source, max_pixels=settings.max_source_pixels).extension
    made = render(source, recipe, max_pixels=settings.max_source_pixels, max_decoded_pixels=settings.max_decoded_pixels)
    return {name + extension: data for name, data in made.items()}


def check(made: Mapping[str, bytes]) -> str:
    """The format of the renditions, each one picture of its name's size and format, 8 bits deep, with no metadata.

    Raises:
        Wrong: one is not.
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
