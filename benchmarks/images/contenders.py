"""The contenders in Python, each used in the way that its documentation recommends for speed.

    python contenders.py NAME SOURCE FOLDER RUNS    one line of JSON: CPU seconds of each run, and the peak memory

Each child process renders one source with one contender: once to warm up, then at most RUNS times. It writes the last
renditions as FOLDER/<side>. sharp.mjs does the same in Node. A child imports only the libraries of its contender.
"""

from __future__ import annotations

import io
import json
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

#: The renditions are squares of these sides in pixels, largest first, because the others are made from it.
SIDES = (800, 250, 50)
#: Quality of the peers' JPEGs and WebPs: sharp's default.
QUALITY = 80

#: CPU seconds after which a child stops rendering: slow contenders need fewer runs.
ENOUGH = 0.5

Renditions = dict[int, bytes]  # By side.
Render = Callable[[bytes], Renditions]


def ours() -> Render:
    """Use `pipeline.images.render.render` with the service's defaults."""
    from pipeline.images.render import render  # noqa: PLC0415
    from pipeline.recipe import Recipe, parse_rendition  # noqa: PLC0415
    from pipeline.settings import Settings  # noqa: PLC0415

    recipe = Recipe(tuple(parse_rendition(f"{side}x{side}") for side in SIDES))
    limits = {
        "max_pixels": Settings.model_fields["max_source_pixels"].default,
        "max_decoded_pixels": Settings.model_fields["max_decoded_pixels"].default,
    }
    return lambda source: {int(name.split("x")[0]): data for name, data in render(source, recipe, **limits).items()}


def pillow() -> Render:
    """Open, resize to each size with LANCZOS, save."""
    from PIL import Image, ImageOps  # noqa: PLC0415

    def render(source: bytes) -> Renditions:
        image = Image.open(io.BytesIO(source))
        name = image.format
        made = {}
        for side in SIDES:
            buffer = io.BytesIO()
            options = {} if name == "PNG" else {"quality": QUALITY}
            ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS).save(buffer, name, **options)
            made[side] = buffer.getvalue()
        return made

    return render


def pyvips() -> Render:
    """Use `thumbnail_buffer` for the largest size, which shrinks on load, and make the others from it."""
    import pyvips as vips  # noqa: PLC0415

    vips.cache_set_max(0)
    options = {"jpg": {"Q": QUALITY, "optimize_coding": True}, "webp": {"Q": QUALITY}, "png": {}}

    def render(source: bytes) -> Renditions:
        suffix = _suffix(source)
        largest = vips.Image.thumbnail_buffer(source, SIDES[0], height=SIDES[0], crop="centre").copy_memory()
        images = {side: largest.thumbnail_image(side, height=side, crop="centre") for side in SIDES[1:]}
        images = {SIDES[0]: largest} | images
        return {side: image.write_to_buffer(f".{suffix}", **options[suffix]) for side, image in images.items()}

    return render


def imagemagick() -> Render:
    """Use libMagickWand through Wand: `jpeg:size` to shrink on load, then each size from the next larger one."""
    from wand.image import Image  # noqa: PLC0415

    def render(source: bytes) -> Renditions:
        made = {}
        with Image() as image:
            image.options["jpeg:size"] = f"{2 * SIDES[0]}x{2 * SIDES[0]}"
            image.read(blob=source)
            image.compression_quality = image.compression_quality if image.format == "PNG" else QUALITY
            for side in SIDES:
                image.transform(resize=f"{side}x{side}^")
                image.crop(width=side, height=side, gravity="center")
                image.strip()
                made[side] = image.make_blob()
        return made

    return render


CONTENDERS = {"this project": ours, "pyvips": pyvips, "Pillow": pillow, "ImageMagick": imagemagick}


def _suffix(source: bytes) -> str:
    return {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}[source[:2]]


def cpu_seconds() -> float:
    """Return the user and system time of this process, including all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_bytes() -> int:
    """Return the peak resident memory of this process. getrusage would include the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Render, and print the measurements."""
    name, source, folder, runs = sys.argv[1:]
    render, data = CONTENDERS[name](), Path(source).read_bytes()
    before = peak_bytes()
    made, taken = render(data), []
    while len(taken) < int(runs) and sum(taken) < ENOUGH:
        start = cpu_seconds()
        made = render(data)
        taken.append(cpu_seconds() - start)
    for side, rendition in made.items():
        Path(folder, str(side)).write_bytes(rendition)
    json.dump({"cpu": taken, "memory": peak_bytes() - before}, sys.stdout)


if __name__ == "__main__":
    main()
