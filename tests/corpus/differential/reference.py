"""Measures how far renditions are from their sources, with libvips and SDL_image.

    python reference.py    reads requests from standard input and writes answers to standard output, as lines of JSON

It runs in an environment that has neither this project nor Pillow. A request names files: the `source`, and in a second
request its `rendition` and the `picture` to write. Answers have `size` and `decibels`, or `error` if the source cannot
be decoded here.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any, Final

os.environ |= {"PYGAME_HIDE_SUPPORT_PROMPT": "1", "SDL_VIDEODRIVER": "dummy", "VIPS_WARNING": "0"}
import pygame
import pyvips

Pair = tuple[int, int]

#: PSNR in decibels that equal pictures get.
EQUAL: Final = 99.0
#: Extensions for SDL_image by the beginnings of formats that libvips does not have, or not in every variant.
_EXTENSIONS: Final = {b"BM": "bmp", b"\0\0\1\0": "ico", b"II": "tif", b"MM": "tif"}
#: Encoder settings of JPEG renditions in formats.py and render.py, whose losses are not differences.
_QUALITY, _FULL_COLOUR_SIDE = 80, 100
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_ABOUT_COLOURS: Final = {b"PLTE", b"tRNS"}
_HALF: Final = 128  # GIF has full or no transparency


def answer(request: dict[str, str]) -> dict[str, Any]:
    """Measure a rendition, or return the size of the source if there is none."""
    try:
        wanted = _decoded(Path(request["source"]).read_bytes())
        if "rendition" not in request:
            return {"size": [wanted.width, wanted.height]}
        rendition = Path(request["rendition"]).read_bytes()
        made = _rgba(pyvips.Image.new_from_buffer(rendition, "")).copy_memory()
        wanted = _rgba(wanted.thumbnail_image(made.width, height=made.height, size="force", no_rotate=True))
        wanted = _as_encoded(wanted.copy_memory(), rendition)
    except pyvips.Error as error:
        return {"error": (str(error).strip().splitlines() or ["not decoded"])[-1].strip()}
    pairs = [(wanted.flatten(background=ground), made.flatten(background=ground)) for ground in (255, 0)]
    pyvips.Image.arrayjoin([each for pair in pairs for each in pair], shim=2).pngsave(request["picture"])
    return {"size": [made.width, made.height], "decibels": min(_psnr(*pair) for pair in pairs)}


def _decoded(source: bytes) -> pyvips.Image:
    """Decode the source as it should look: upright and in sRGB."""
    extension = next((found for start, found in _EXTENSIONS.items() if source.startswith(start)), None)
    try:
        return _by_vips(source)
    except pyvips.Error as error:
        if not extension:
            raise
        try:
            return _by_sdl(source, extension)
        except (pygame.error, SystemError):
            raise error from None


def _by_vips(source: bytes) -> pyvips.Image:
    first, place, canvas = _first_frame(source) if source.startswith(_PNG) else (source, None, None)
    image = pyvips.Image.new_from_buffer(first, "", fail_on="error").autorot().copy_memory()
    if place and place + canvas != (0, 0, image.width, image.height):
        image = _rgba(image).embed(*place, *canvas, extend="background", background=[0, 0, 0, 0])
    is_cmyk = image.interpretation == "cmyk"
    if image.get_typeof("icc-profile-data") or is_cmyk:
        options = {"input_profile": "cmyk"} if is_cmyk else {}
        try:
            return image.icc_transform(
                "srgb", embedded=True, intent="relative", black_point_compensation=True, **options
            )
        except pyvips.Error:
            pass  # a broken profile counts as none
    return image.colourspace("srgb").copy_memory()


def _first_frame(png: bytes) -> tuple[bytes, Pair | None, Pair | None]:
    """Return the first frame of an animated PNG as a PNG, its place and the canvas. libvips shows the default image."""
    chunks, at = [], len(_PNG)
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    names = [name for name, _ in chunks]
    controls = [index for index, name in enumerate(names) if name == b"fcTL"]
    still = names.index(b"IDAT") if b"IDAT" in names else 0
    if b"acTL" not in names[:still] or not controls or controls[0] < still:
        return png, None, None
    head, control = chunks[0][1], chunks[controls[0]][1]
    before = [(name, data) for name, data in chunks[1:still] if name in _ABOUT_COLOURS]
    end = controls[1] if len(controls) > 1 else len(chunks)
    pixels = [(b"IDAT", data[4:]) for name, data in chunks[controls[0] : end] if name == b"fdAT"]
    parts = [(b"IHDR", control[4:12] + head[8:]), *before, *pixels, (b"IEND", b"")]
    frame = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return _PNG + frame, struct.unpack(">II", control[12:20]), struct.unpack(">II", head[:8])


def _by_sdl(source: bytes, extension: str) -> pyvips.Image:
    surface = pygame.image.load(io.BytesIO(source), f"source.{extension}")
    mode = "RGBA" if surface.get_masks()[3] or surface.get_colorkey() else "RGB"
    pixels = pygame.image.tobytes(surface, mode)
    image = pyvips.Image.new_from_memory(pixels, *surface.get_size(), len(mode), "uchar").copy(interpretation="srgb")
    # libtiff's own conversion to RGBA, which SDL_image uses, multiplies colours by alpha.
    return image.unpremultiply().cast("uchar") if (extension, mode) == ("tif", "RGBA") else image


def _rgba(image: pyvips.Image) -> pyvips.Image:
    image = image.colourspace("srgb").cast("uchar")
    return image[:4] if image.bands >= 4 else image[:3].bandjoin(255)


def _as_encoded(image: pyvips.Image, rendition: bytes) -> pyvips.Image:
    """Return the picture with the losses of the rendition's format."""
    if rendition.startswith(b"GIF"):
        return image[:3].bandjoin((image[3] >= _HALF).ifthenelse(255, 0))
    if rendition.startswith(b"\xff\xd8") and not image[3].min() < 255:
        halved = "on" if max(image.width, image.height) > _FULL_COLOUR_SIDE else "off"
        coded = image[:3].jpegsave_buffer(Q=_QUALITY, subsample_mode=halved)
        return pyvips.Image.new_from_buffer(coded, "").bandjoin(255)
    return image


def _psnr(one: pyvips.Image, other: pyvips.Image) -> float:
    error = ((one.cast("float") - other.cast("float")) ** 2).avg()
    return round(min(EQUAL, 10 * math.log10(255**2 / error)), 1) if error else EQUAL


def main() -> None:
    """Answer requests until the input ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
