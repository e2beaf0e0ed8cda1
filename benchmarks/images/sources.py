"""Makes the inputs: photographs, and a cover with lettering, as squares of several sides in JPEG, PNG and WebP.

python sources.py PHOTOGRAPHS FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDES = (1400, 3000, 4096)

#: The photograph of each picture, and whether lettering covers part of it. They have 3840 x 2160 or x 2560 pixels.
PICTURES = {
    "animals": ("oakland-zoo-otters.jpg", False),
    "leaves": ("tea-gardens.jpg", False),
    "cover": ("casa-mila.jpg", True),
}

#: Common settings for covers: WebP's method and PNG's level are the libraries' defaults.
FORMATS = {"jpg": {"quality": 90}, "png": {}, "webp": {"quality": 85}}


def square(photograph: Image.Image, side: int) -> Image.Image:
    """Crop and scale the middle of a photograph. For 4096 it is enlarged 1.6 or 1.9 times, as many covers are."""
    edge = min(photograph.size)
    left, top = (photograph.width - edge) // 2, (photograph.height - edge) // 2
    box = (left, top, left + edge, top + edge)
    return photograph.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, box=box)


def lettered(image: Image.Image) -> Image.Image:
    """Add a plain area of lettering, as podcast covers have."""
    side, navy, yellow = image.width, (24, 32, 72), (250, 180, 40)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0.62 * side, side, side), navy)
    draw.rectangle((0, 0.62 * side, side, 0.63 * side), yellow)
    draw.text((0.05 * side, 0.65 * side), "The Morning", "white", ImageFont.load_default(0.13 * side))
    draw.text((0.05 * side, 0.80 * side), "news, weather & long stories", yellow, ImageFont.load_default(0.06 * side))
    return image


def main() -> None:
    """Make all inputs as `<picture>-<side>.<format>`."""
    photographs, folder = map(Path, sys.argv[1:])
    for picture, (name, is_lettered) in PICTURES.items():
        for side in SIDES:
            with Image.open(photographs / name) as photograph:
                image = square(photograph, side)
            image = lettered(image) if is_lettered else image
            for suffix, options in FORMATS.items():
                image.save(folder / f"{picture}-{side}.{suffix}", **options)


if __name__ == "__main__":
    main()
