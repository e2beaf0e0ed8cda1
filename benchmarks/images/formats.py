"""Measures the formats that a rendition can name, and alternatives to their settings: bytes, quality and CPU.

`make bench-formats` encodes the pictures of `make bench-images` at 800 and 250 pixels, on one core, with the settings
of the product and with others. It prints the table, and writes it to docs/performance.md.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peers import HERE, Peers
from PIL import Image
from rich.progress import track

from pipeline.images.formats import AVIF, ENCODER_SETTINGS, JPEG, WEBP, ImageFormat
from pipeline.images.render import jpeg_settings

SIDES = (800, 250)

#: Encodings of each picture. The minimum of their times counts, because other programs can only add to it.
RUNS = 3

#: Other settings of AVIF, each of which differs in one respect from the product's.
ALTERNATIVES: tuple[Mapping[str, Any], ...] = (
    {"speed": 6},
    {"speed": 9},
    {"subsampling": "4:2:0"},
    {"quality": 50},
    {"quality": 70},
)


def candidates(side: int) -> Iterator[tuple[str, ImageFormat, Mapping[str, Any]]]:
    """Yield the name, the format and the settings of each candidate."""
    yield "JPEG", JPEG, {**ENCODER_SETTINGS["JPEG"], **jpeg_settings(side)}
    for output in (WEBP, AVIF):
        yield output.name.replace("WEBP", "WebP"), output, ENCODER_SETTINGS[output.name]
    for change in ALTERNATIVES:
        ((name, value),) = change.items()
        yield f"AVIF, {name} {value}", AVIF, {**ENCODER_SETTINGS["AVIF"], **change}


def measure(picture: Image.Image, output: ImageFormat, settings: Mapping[str, Any]) -> tuple[bytes, float]:
    """Encode a picture; return the bytes and the CPU time in milliseconds."""
    taken = []
    for _ in range(RUNS):
        buffer, start = io.BytesIO(), time.process_time()
        picture.save(buffer, output.name, **settings)
        taken.append(1000 * (time.process_time() - start))
    return buffer.getvalue(), min(taken)


def encode(source: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Encode one picture in all ways, and store each result beside the reference."""
    with Image.open(source) as image:
        whole = image.convert("RGB")
    for side in SIDES:
        reference = folder / f"{source.stem}-{side}.png"
        whole.resize((side, side), Image.Resampling.LANCZOS).save(reference)
        for name, output, settings in candidates(side):
            data, cpu = measure(whole.resize((side, side), output.kernel), output, settings)
            path = folder / f"{source.stem}-{side}-{name}.{output.name.lower()}"
            path.write_bytes(data)
            yield {"name": name, "side": side, "cpu": cpu, "bytes": len(data), "path": str(path), "of": str(reference)}


def main() -> None:
    """Measure and report."""
    peers = Peers()
    sources = sorted(peers.sources.glob("*-3000.png"))
    with tempfile.TemporaryDirectory() as temporary:
        rows = [row for source in track(sources, "Encoding") for row in encode(source, Path(temporary))]
        order = Path(temporary, "rows.json")
        order.write_text(json.dumps(rows))
        subprocess.run([peers.python, HERE / "formats_report.py", order], check=True)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
