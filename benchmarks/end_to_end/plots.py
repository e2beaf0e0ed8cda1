"""What `report.py` has drawn: python plots.py ORDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

#: The colours of process types, and of what a million images cost.
COLOURS = {
    "resize": "#1b7f5c",
    "fetch": "#5aa9a3",
    "upload": "#9fc9c3",
    "notify": "#c9b458",
    "ingest": "#d98c5f",
    "consumer": "#8c939c",
    "s3": "#5aa9a3",
    "sqs": "#c9b458",
    "cpu": "#1b7f5c",
}


def stacked(panel: Any, values: dict[str, dict[str, float]], unit: str) -> None:
    """A bar for each contender, in parts."""
    names = [name for name in COLOURS if any(name in each for each in values.values())]
    left = [0.0] * len(values)
    for name in names:
        widths = [each.get(name, 0.0) for each in values.values()]
        panel.barh(list(values), widths, left=left, height=0.7, color=COLOURS[name], label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for place, total in enumerate(left):
        above_lines = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        panel.annotate(
            unit.format(total),
            (total, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox=above_lines,
        )
    panel.set_xlim(0, 1.2 * max(left))
    panel.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=len(names))


def waits(panel: Any, values: dict[str, dict[str, list[float]]]) -> None:
    """Two bars for each contender, to p50, with a line to p95."""
    for offset, (phase, colour) in enumerate((("idle", "#9fc9c3"), ("load", "#1b7f5c"))):
        found = [(place, each[phase]) for place, each in enumerate(values.values()) if phase in each]
        places = [place + 0.36 * offset - 0.18 for place, _ in found]
        label = "idle" if phase == "idle" else "at 80 % load"
        panel.barh(
            places, [p50 for _, (p50, _) in found], height=0.34, color=colour, label=f"{label}: p50, line to p95"
        )
        for place, (_, (p50, p95)) in zip(places, found, strict=True):
            panel.plot([p50, p95], [place, place], color="#444", linewidth=1)
            panel.text(p95, place, f" {p50:.0f}, {p95:.0f}", va="center", fontsize=7)
    panel.set_yticks(range(len(values)), list(values))
    panel.set_xlim(0, 1.2 * max(p95 for each in values.values() for _, p95 in each.values()))
    panel.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)


def main() -> None:
    """Draw."""
    order = json.loads(Path(sys.argv[1]).read_text())
    panels = [*({"side": each} for each in order["sides"]), {"dollars": True}]
    if any(order["waits"].values()):
        panels.append({"waits": True})
    figure, axes = plt.subplots(
        (len(panels) + 1) // 2, 2, figsize=(12, 3.4 * ((len(panels) + 1) // 2)), layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, what in zip(axes.flat, panels, strict=False):
        if "side" in what:
            each = what["side"]
            stacked(axis, each["cpu"], "{:.0f} ms")
            for value, style in ((each["rendering"], "--"), (each["sharp"], ":")):
                if value:
                    axis.axvline(value, color="#b03a2e", linestyle=style, linewidth=1)
            title = f"CPU of an image, {each['side']} px (dashed: rendering; dotted: sharp's)"
        elif "dollars" in what:
            stacked(axis, order["dollars"], "${:.2f}")
            title = "A million images at list prices"
        else:
            waits(axis, order["waits"])
            title = "From message to postback, ms"
        axis.set_title(title, loc="left", fontsize=9)
        axis.invert_yaxis()
        axis.tick_params(axis="both", labelsize=8, length=0)
        axis.spines[["top", "right"]].set_visible(False)
        for label in axis.get_yticklabels():
            label.set_fontweight("bold" if label.get_text() in order["ours"] else "normal")
    figure.savefig(order["out"], dpi=120)


if __name__ == "__main__":
    main()
