"""The contenders that run on Python, each used as its own documentation says is fast.

    python contenders.py NAME SOURCE FOLDER RUNS    one line of JSON: CPU seconds of each run, and the peak of memory

A child for one contender and one source: it renders once to warm up, then RUNS times at the most, and writes the last
renditions as FOLDER/<side>. sharp.mjs is the same for Node. Only what a contender needs is imported.
"""

from __future__ import annotations

import io
import json
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

#: The renditions, as squares of these sides in pixels: the largest first, for the next are made from it.
SIDES = (800, 250, 50)
#: Of the peers' JPEGs and WebPs: what sharp's are unless told.
QUALITY = 80

#: Seconds of CPU after which a child renders no more: those who take long need fewer runs.
ENOUGH = 0.5

Renditions = dict[int, bytes]  # by side
Render = Callable[[bytes], Renditions]


def ours() -> Render:
    """`pipeline.images.render.render`, with the service's own defaults."""
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
    """Open, resize to each size at LANCZOS, save."""
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
    """`thumbnail_buffer` for the largest, which shrinks while it loads, and the others from that."""
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
    """libMagickWand through Wand: `jpeg:size` to shrink while it loads, each size from the next larger one."""
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
    """User and system time of this process so far, all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_bytes() -> int:
    """The most memory that this process has had resident. Not getrusage's, which begins with the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Render, and tell what it took."""
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
