"""Rendering: from the bytes of an image to its renditions.

render()     read ─► open ─► decode ─► resize ─► upright ─► sRGB ─► pad ─► encode

Renditions whose names end in a format come after the others, and are made from the same pictures where these have
the size. They never change a byte of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from typing import Any, Final, NamedTuple

from PIL import Image
from PIL.Image import Resampling, Transpose

from pipeline.images import codecs
from pipeline.images.codecs import Box, Size
from pipeline.images.colour import Conversion, srgb_conversion
from pipeline.images.decoding import decode
from pipeline.images.details.measure import Header
from pipeline.images.details.thumbhash import SIDE
from pipeline.images.formats import ENCODER_SETTINGS, GIF, JPEG, PNG, ImageFormat, format_by_extension, jpeg_settings
from pipeline.images.identify import image_errors, output_format, read
from pipeline.images.opening import Opened, open_container, open_image
from pipeline.recipe import Recipe, RenditionSize


def render(
    source: bytes, recipe: Recipe, *, max_pixels: int, max_decoded_pixels: int, facts: dict[str, Any] | None = None
) -> dict[str, bytes]:
    """Render an image: upright, in 8-bit sRGB, without metadata. Of an animation, use the first frame.

    Args:
        source: the bytes of an image.
        recipe: the renditions to make.
        max_pixels: the largest width x height to accept (`MAX_SOURCE_PIXELS`).
        max_decoded_pixels: the largest width x height to decode (`MAX_DECODED_PIXELS`). A large JPEG can be decoded at
            1/2, 1/4 or 1/8 of its size.
        facts: if given, gets what results with details report of the source (`details.measure`).

    Returns:
        The encoded renditions by name, each with exactly the size in the recipe.

    Raises:
        PermanentError: as `identify.identify()`.
        RetryableError: as `identify.identify()`.
    """
    with image_errors(source):
        name, container = read(source, max_pixels)
        own = output_format(name, container)
        outputs = {each: format_by_extension(each.extension) if each.extension else own for each in recipe.renditions}
        opened = open_container(name, container, max_pixels)
        del container  # its copies of the source
        header, size = Header.of(name, opened.image), opened.image.size
        first, *more = _decodings(opened, recipe)
        picture = _decoded(opened, first, max_decoded_pixels)
        del opened
        pictures = dict(_resized(picture, first, outputs))
        if facts is not None:
            size = size if name == "JPEG" else picture.image.size
            size = size[::-1] if picture.transpose in _SIDEWAYS else size
            facts |= header.facts(source, size, _tiny(picture, size, pictures, first))
        del picture  # frees its pixels before encoding
        for part in more:
            later = _decoded(open_image(source, max_pixels), part, max_decoded_pixels)
            pictures |= dict(_resized(later, part, outputs))
        return _encoded(pictures, outputs, recipe)


Outputs = Mapping[RenditionSize, ImageFormat]  # the format of each rendition


def _decodings(opened: Opened, recipe: Recipe) -> list[Recipe]:
    """Split a recipe into the parts that are decoded at one scale. Only JPEGs have several.

    The first part has the renditions without a format in their names, and all that need no more pixels. Others would
    change the scale, and so the pixels of the first. They are decoded apart.
    """
    plain = tuple(each for each in recipe.renditions if not each.extension)
    if opened.format != "JPEG" or not plain or len(plain) == len(recipe.renditions):
        return [recipe]
    transpose = _TRANSPOSES.get(opened.orientation)

    def shrink(*renditions: RenditionSize) -> float:
        return _shrink(opened.image.size, replace(recipe, renditions=renditions), transpose)

    enough = shrink(*plain)
    first = tuple(each for each in recipe.renditions if not each.extension or shrink(each) >= enough)
    rest = tuple(each for each in recipe.renditions if each not in first)
    return [replace(recipe, renditions=part) for part in (first, rest) if part]


def _encoded(pictures: Mapping[RenditionSize, Image.Image], outputs: Outputs, recipe: Recipe) -> dict[str, bytes]:
    """Encode the pictures. Two renditions of one size and format, such as 800x800 and 800x800.jpeg, are the same."""
    made: dict[tuple[int, int, str], bytes] = {}
    renditions = {}
    for each in recipe.renditions:
        output = outputs[each]
        key = (each.width, each.height, output.name)
        if key not in made:
            made[key] = _encode(_padded(pictures[each], each, output), output)
        renditions[each.name] = made[key]
    return renditions


class _Picture(NamedTuple):
    """A decoded image, and the changes that make it upright and sRGB; both are cheaper after resizing."""

    image: Image.Image
    transpose: Transpose | None
    to_srgb: Conversion


_LEVEL: Final = (Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM)
_SIDEWAYS: Final = (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)
_TRANSPOSES: Final = dict(enumerate((*_LEVEL, *_SIDEWAYS), start=2))  # by EXIF orientation; 1 is upright

#: Modes with premultiplied alpha, and the same without alpha.
_WITHOUT_ALPHA: Final = {"La": "L", "RGBa": "RGB"}


def _decoded(opened: Opened, recipe: Recipe, max_decoded_pixels: int) -> _Picture:
    """Decode an image; a JPEG at 1, 1/2, 1/4 or 1/8 of its size, as its renditions need."""
    transpose = _TRANSPOSES.get(opened.orientation)
    if opened.format == "JPEG":
        width, height = opened.image.size
        shrink = _shrink((width, height), recipe, transpose)
        opened.image.draft(None, (math.ceil(width / shrink), math.ceil(height / shrink)))
    opened.check_decoding(max_decoded_pixels)
    image = decode(opened)
    to_srgb = srgb_conversion(_WITHOUT_ALPHA.get(image.mode, image.mode), opened.profile)
    return _Picture(image, transpose, to_srgb)


def _shrink(size: Size, recipe: Recipe, transpose: Transpose | None) -> float:
    """Return how many times larger an image is than its renditions need."""
    places = [_place(recipe.fit, size, rendition, transpose) for rendition in recipe.renditions]
    return min(min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]) for box, size in places)


def _cover(source: Size, target: Size) -> tuple[Box, Size]:
    scale = min(source[0] / target[0], source[1] / target[1])
    left, top = (max(0, (side - scale * goal) / 2) for side, goal in zip(source, target, strict=True))
    return (left, top, source[0] - left, source[1] - top), target


def _contain(source: Size, target: Size) -> tuple[Box, Size]:
    scale = max(source[0] / target[0], source[1] / target[1])
    return (0, 0, *source), (max(1, round(source[0] / scale)), max(1, round(source[1] / scale)))


def _fill(source: Size, target: Size) -> tuple[Box, Size]:
    return (0, 0, *source), target


#: By fit: from the sizes of source and rendition to a box in the source and the size of the picture made from it.
_FITS: Final = {"cover": _cover, "contain": _contain, "fill": _fill}


def _place(fit: str, source: Size, rendition: RenditionSize, transpose: Transpose | None) -> tuple[Box, Size]:
    """Apply the fit in the source's stored orientation. Everything is centred, and stays so when transposed."""
    target = (rendition.width, rendition.height)
    return _FITS[fit](source, target[::-1] if transpose in _SIDEWAYS else target)


class _Made(NamedTuple):
    """A picture of some rendition, and how it was made."""

    image: Image.Image
    box: Box
    kernel: Resampling

    def can_become(self, size: Size, box: Box, kernel: Resampling) -> bool:
        """Return whether it shows the same part of the source and has the size, or at least twice the size."""
        width, height = self.image.size
        is_same_part = all(math.isclose(a, b, abs_tol=0.01) for a, b in zip(box, self.box, strict=True))
        is_large_enough = width >= 2 * size[0] and height >= 2 * size[1]
        return kernel == self.kernel and is_same_part and (is_large_enough or (width, height) == size)


def _resized(picture: _Picture, recipe: Recipe, outputs: Outputs) -> Iterator[tuple[RenditionSize, Image.Image]]:
    """Yield each rendition's picture: upright, in sRGB, not yet padded.

    A picture is made from another one of the same part with at least twice the size. The difference is not visible.
    Largest first, and pictures for formats in names last, so that the others are made as if these were not there.
    """
    made: list[_Made] = []
    for rendition in sorted(recipe.renditions, key=lambda each: (bool(each.extension), -each.width * each.height)):
        kernel = outputs[rendition].kernel
        box, stored_size = _place(recipe.fit, picture.image.size, rendition, picture.transpose)
        size = stored_size[::-1] if picture.transpose in _SIDEWAYS else stored_size
        bases = [each.image for each in reversed(made) if each.can_become(size, box, kernel)]
        if bases:
            base = min(bases, key=lambda image: image.width * image.height)
            image = base if base.size == size else codecs.resize(base, size, (0, 0, *base.size), kernel)
        else:
            image = _in_srgb(codecs.resize(picture.image, stored_size, box, kernel), picture.to_srgb)
            image = image if picture.transpose is None else image.transpose(picture.transpose)
        made.append(_Made(image, box, kernel))
        yield rendition, image


def _tiny(picture: _Picture, size: Size, made: Mapping[RenditionSize, Image.Image], recipe: Recipe) -> Image.Image:
    """Return the whole picture, upright and in sRGB, so small that its mean and its placeholder cost little.

    It is made from the smallest rendition that shows the whole source. Where all are cropped, it is made from samples
    of the decoded image, 16 for each pixel, because a mean of all would take milliseconds.
    """
    scale = min(1.0, SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    whole = (0, 0, *picture.image.size)
    fitting = [
        image
        for each, image in made.items()
        if all(map(math.isclose, _place(recipe.fit, picture.image.size, each, picture.transpose)[0], whole))
        and image.width >= width
        and image.height >= height
    ]
    if fitting:
        return min(fitting, key=lambda image: image.width * image.height).resize((width, height), Resampling.BOX)
    stored = (height, width) if picture.transpose in _SIDEWAYS else (width, height)
    sampled = picture.image.resize((4 * stored[0], 4 * stored[1]), Resampling.NEAREST)
    image = _in_srgb(sampled.resize(stored, Resampling.BOX), picture.to_srgb)
    return image if picture.transpose is None else image.transpose(picture.transpose)


def _in_srgb(image: Image.Image, to_srgb: Conversion) -> Image.Image:
    """Convert to sRGB without metadata: in mode RGB, or RGBA if any pixel is transparent."""
    if image.mode not in _WITHOUT_ALPHA:
        result = to_srgb(image)
    else:
        image = image.convert(image.mode.upper())
        alpha = image.getchannel("A")
        result = to_srgb(image.convert(image.mode[:-1]))
        if alpha.getextrema() != (255, 255):
            result.putalpha(alpha)
    result.info = {}  # save() would write comments, profiles and transparency from it
    return result


def _padded(image: Image.Image, rendition: RenditionSize, output: ImageFormat) -> Image.Image:
    """Centre the image on a canvas of the rendition's size: transparent if the format has alpha, else white."""
    size = (rendition.width, rendition.height)
    if image.size == size and (output.has_alpha or image.mode == "RGB"):
        return image
    canvas = Image.new("RGBA", size, (255, 255, 255, 0)) if output.has_alpha else Image.new("RGB", size, "white")
    place = ((size[0] - image.width) // 2, (size[1] - image.height) // 2)
    canvas.paste(image, place, None if output.has_alpha or image.mode == "RGB" else image)
    return canvas


def _encode(image: Image.Image, output: ImageFormat) -> bytes:
    settings = ENCODER_SETTINGS[output.name]
    if output is PNG:
        return codecs.encode_png(image, **settings)
    if output is JPEG:
        settings = {**settings, **jpeg_settings(max(image.size))}
    buffer = BytesIO()
    image = _with_palette(image) if output is GIF else image
    image.save(buffer, output.name, **settings)
    return buffer.getvalue()


def _with_palette(image: Image.Image) -> Image.Image:
    """Reduce to 256 colours. Pixels less than half opaque become transparent, all others opaque.

    The image is not dithered, because Pillow would turn white into grey and plain areas into noise.
    """
    if image.mode == "RGB":
        return image.quantize()
    hidden = image.getchannel("A").point(lambda alpha: 255 * (alpha < 128))
    result = image.convert("RGB").quantize(255)
    result.paste(255, mask=hidden)
    result.info["transparency"] = 255
    return result
