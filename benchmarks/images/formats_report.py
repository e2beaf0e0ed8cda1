"""Judges what `formats.py` encoded, prints the table, and writes it to docs/performance.md.

    python formats_report.py ROWS

The reference for quality is the picture resized by Pillow with LANCZOS. SSIM is scikit-image's, the mean of the three
channels with windows of 7 x 7. SSIMULACRA2 imitates how people see: 90 is hard to tell from the original, 70 is high
quality, and 50 medium (https://github.com/cloudinary/ssimulacra2).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity
from ssimulacra2 import compute_ssimulacra2

PAGE = Path(__file__).parents[2] / "docs/performance.md"
MARKS = ("<!-- bench-formats -->\n", "<!-- end of bench-formats -->")
HEADING = ["mean of three pictures", "bytes, of the JPEG's", "SSIM", "SSIMULACRA2", "CPU, ms"]


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the quality of its picture."""
    decoded = Path(f"{row['path']}.png")
    Image.open(row["path"]).convert("RGB").save(decoded, compress_level=1)
    made, wanted = (np.asarray(Image.open(path).convert("RGB")) for path in (decoded, row["of"]))
    ssim = structural_similarity(wanted, made, channel_axis=2)
    return {**row, "ssim": ssim, "ssimulacra2": compute_ssimulacra2(row["of"], str(decoded))}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table, in Markdown."""
    lines = [HEADING, ["---"] + ["---:"] * (len(HEADING) - 1)]
    for side in sorted({row["side"] for row in rows}, reverse=True):
        here = [row for row in rows if row["side"] == side]
        plain = sum(row["bytes"] for row in here if row["name"] == "JPEG")
        for name in dict.fromkeys(row["name"] for row in here):
            same = [row for row in here if row["name"] == name]
            lines.append(
                [
                    f"{side} x {side}: {name}",
                    f"{sum(row['bytes'] for row in same) / plain:.2f}",
                    f"{mean(row['ssim'] for row in same):.4f}",
                    f"{mean(row['ssimulacra2'] for row in same):.1f}",
                    f"{mean(row['cpu'] for row in same):.0f}",
                ]
            )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the table, and write it between its marks."""
    text = table([judged(row) for row in json.loads(Path(sys.argv[1]).read_text())])
    print(text)  # noqa: T201
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    tail = rest.partition(MARKS[1])[2]
    PAGE.write_text(f"{head}{MARKS[0]}{text}\n{MARKS[1]}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
