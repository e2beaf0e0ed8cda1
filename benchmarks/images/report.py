"""Shows the results of `bench.py` as tables, and writes docs/performance.md.

    python report.py RESULTS SOURCES RENDITIONS

The reference for quality is the source, decoded in full size and resized by Pillow with LANCZOS. PSNR and SSIM are
scikit-image's, on the stored (gamma-coded) RGB values. SSIM is the mean of the three channels with windows of 7 x 7.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyvips
from contenders import SIDES
from peers import FOLDER
from PIL import Image
from PIL import __version__ as pillow_version
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

DOCS = Path(__file__).parents[2] / "docs"
OURS, SHARP, PILLOW = "this project", "sharp", "Pillow"
FORMATS = {"jpg": "JPEG", "webp": "WebP", "png": "PNG"}

#: The limits: CPU as a share of sharp's, by format; the loss of SSIM against sharp; CPU as a share of plain Pillow's.
CPU_OF_SHARP = {"jpg": 1.0, "webp": 1.0, "png": 1.2}
SSIM_LOSS = 0.002
CPU_OF_PILLOW = 1 / 6


@dataclass(frozen=True)
class Quality:
    """The quality of one rendition."""

    ssim: float
    psnr: float
    bytes: int


class Results:
    """The measurements by contender and source."""

    def __init__(self, measured: Iterable[dict[str, Any]], sources: Path, renditions: Path) -> None:
        self._cpu: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._memory: dict[tuple[str, str], int] = defaultdict(int)
        self._sources, self._renditions = sources, renditions
        for each in measured:
            key = (each["contender"], each["source"])
            self._cpu[key] += each["cpu"]
            self._memory[key] = max(self._memory[key], each["memory"])
        self.contenders = list(dict.fromkeys(contender for contender, _ in self._cpu))
        self.sources = list(dict.fromkeys(source for _, source in self._cpu))

    def like(self, suffix: str, side: str = "") -> list[str]:
        """Return the sources of a format, of one size or of all sizes."""
        return [each for each in self.sources if each.endswith(f".{suffix}") and f"-{side}" in each]

    def cpu(self, contender: str, source: str) -> float:
        """Return CPU milliseconds: the minimum of all runs, because other programs can only add to it."""
        return 1000 * min(self._cpu[contender, source])

    def memory(self, contender: str, source: str) -> float:
        """Return the peak memory in megabytes."""
        return self._memory[contender, source] / 1e6

    @cache  # noqa: B019 - there is one
    def quality(self, contender: str, source: str) -> dict[int, Quality]:
        """Return the quality of each rendition by its side."""
        return {side: self._quality(contender, source, side) for side in SIDES}

    def _quality(self, contender: str, source: str, side: int) -> Quality:
        data = (self._renditions / source / contender / str(side)).read_bytes()
        made, wanted = _pixels(data), self._reference(source)[side]
        ssim = structural_similarity(wanted, made, channel_axis=2)
        with np.errstate(divide="ignore"):
            return Quality(ssim, peak_signal_noise_ratio(wanted, made), len(data))

    @cache  # noqa: B019
    def _reference(self, source: str) -> dict[int, Any]:
        image = Image.open(self._sources / source).convert("RGB")
        return {side: np.asarray(image.resize((side, side), Image.Resampling.LANCZOS)) for side in SIDES}

    def bytes(self, contender: str, source: str) -> int:
        """Return the size of all renditions in bytes."""
        return sum(each.bytes for each in self.quality(contender, source).values())


def _pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _rows(heading: list[str], rows: Iterable[list[str]]) -> str:
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cpu_table(results: Results) -> str:
    """Show CPU time by format and size."""
    rows = []
    for suffix, title in FORMATS.items():
        for side in sorted({re.search(r"-(\d+)", each)[1] for each in results.like(suffix)}, key=int):
            sources = results.like(suffix, side)
            cells = []
            for contender in results.contenders:
                taken = median(results.cpu(contender, each) for each in sources)
                ratio = median(results.cpu(contender, each) / results.cpu(OURS, each) for each in sources)
                cells.append(f"**{taken:.0f}**" if contender == OURS else f"{taken:.0f} ({ratio:.1f})")
            rows.append([f"{title} {side} x {side}", *cells])
    return _rows(["CPU ms per image (times ours)", *results.contenders], rows)


def quality_table(results: Results) -> str:
    """Show quality, bytes and memory by format and contender."""
    rows = []
    for suffix, title in FORMATS.items():
        sources = results.like(suffix)
        for contender in results.contenders if sources else []:
            made = [each for source in sources for each in results.quality(contender, source).values()]
            large = max(results.memory(contender, source) for source in sources)
            rows.append(
                [
                    f"{title}, {contender}",
                    f"{median(each.ssim for each in made):.4f}",
                    f"{median(each.psnr for each in made):.1f}".replace("inf", "exact"),
                    f"{median(results.bytes(contender, source) for source in sources) / 1000:.0f}",
                    f"{large:.0f}",
                ]
            )
    return _rows(["of the renditions", "SSIM", "PSNR, dB", "kB, all three", "peak memory, MB"], rows)


def goals_table(results: Results) -> str:
    """Show the limits of rendering and its measurements."""
    rows = []

    def row(what: str, goal: str, value: float, shown: str, is_met: bool) -> None:
        rows.append([what, goal, shown.format(value), "yes" if is_met else "**no**"])

    for suffix, limit in CPU_OF_SHARP.items() if SHARP in results.contenders else ():
        sources = results.like(suffix)
        if not sources:
            continue
        title = FORMATS[suffix]
        cpu = median(results.cpu(OURS, each) / results.cpu(SHARP, each) for each in sources)
        row(f"{title}: CPU, of sharp's", f"at most {limit}", cpu, "{:.2f}", cpu <= limit)
        mine, theirs = ([results.quality(who, each) for each in sources] for who in (OURS, SHARP))
        gains = {side: [a[side].ssim - b[side].ssim for a, b in zip(mine, theirs, strict=True)] for side in SIDES}
        ssim = median(chain.from_iterable(gains.values()))
        row(f"{title}: SSIM, less sharp's", f"at least -{SSIM_LOSS}", ssim, "{:+.4f}", ssim >= -SSIM_LOSS)
        shown = ", ".join(f"{median(gain):+.4f}" for gain in gains.values())  # no size hides the loss of another
        sides = ", ".join(map(str, gains))
        rows.append([f"{title}: the same at {sides} pixels", "reported", shown, "–"])  # noqa: RUF001 - an en dash
        size = median(results.bytes(OURS, each) / results.bytes(SHARP, each) for each in sources)
        row(f"{title}: bytes, of sharp's", "at most 1", size, "{:.3f}", size <= 1)
    if large := results.like("jpg", "3000"):
        plain = median(results.cpu(OURS, each) / results.cpu(PILLOW, each) for each in large)
        row("JPEG 3000 x 3000: CPU, of plain Pillow's", "at most 0.167", plain, "{:.3f}", plain <= CPU_OF_PILLOW)
    return _rows(["median", "goal", "measured", "met"], rows) if rows else "None of these inputs has a limit."


def versions(contenders: list[str]) -> str:
    """Return the versions of the contenders, and the CPU."""
    sharp = FOLDER / "node_modules/sharp/package.json"
    found = [f"sharp {json.loads(sharp.read_text())['version']}"] if SHARP in contenders else []
    found.append(f"pyvips {pyvips.__version__} with libvips {'.'.join(str(pyvips.version(part)) for part in range(3))}")
    found.append(f"Pillow {pillow_version}")
    try:
        from wand.version import MAGICK_VERSION  # noqa: PLC0415

        found.append(" ".join(MAGICK_VERSION.split()[:2]))
    except ImportError:
        pass
    cpuinfo = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return ", ".join([*found, *([f"on an {cpu[1]}"] if cpu else [])])


def main() -> None:
    """Print the tables, and write the page."""
    order, sources, renditions = map(Path, sys.argv[1:])
    given = json.loads(order.read_text())
    results = Results(given["results"], sources, renditions)
    text = "\n\n".join([goals_table(results), cpu_table(results), f"{versions(results.contenders)}."])
    for name, need in given["missing"].items():
        text += f"\n\n{name} is missing: {need}."
    print(f"{text}\n\n{quality_table(results)}")  # noqa: T201
    if given["is_partial"]:
        return
    page = DOCS / "performance.md"
    head, _, rest = page.read_text(encoding="utf-8").partition("<!-- bench-images -->\n")
    tail = rest.partition("<!-- end of bench-images -->")[2]
    marked = f"<!-- bench-images -->\n{text}\n<!-- end of bench-images -->"
    page.write_text(head + marked + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
