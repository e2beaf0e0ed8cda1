"""Rendering alone: one process that renders covers repeatedly, and does nothing else.

python rendering.py SECONDS COVER...    one line of JSON: CPU milliseconds per image, and the number of images
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from pipeline.images.sandbox import render
from pipeline.recipe import Recipe
from pipeline.settings import get_settings

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_milliseconds() -> float:
    """Return the CPU time of this process and of the sandbox that renders for it."""
    tasks = [children.read_text().split() for children in Path("/proc/self/task").glob("*/children")]
    pids = ["self", *(pid for children in tasks for pid in children)]
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return 1000 * sum(int(tick) for fields in stats for tick in fields[11:13]) / TICKS


def main() -> None:
    """Render the covers in rotation for this many seconds."""
    covers = [Path(each).read_bytes() for each in sys.argv[2:]]
    seconds = float(sys.argv[1])
    settings = get_settings()
    recipe = Recipe(settings.renditions, settings.resize_fit)

    def once() -> None:
        for cover in covers:
            render(
                cover,
                recipe,
                max_pixels=settings.max_source_pixels,
                max_decoded_pixels=settings.max_decoded_pixels,
            )

    once()
    images, began, cpu = 0, time.monotonic(), cpu_milliseconds()
    while time.monotonic() - began < seconds:
        once()
        images += len(covers)
    json.dump({"cpu": (cpu_milliseconds() - cpu) / images, "images": images}, sys.stdout)


if __name__ == "__main__":
    main()
