"""Draws the plots of `report.py`: python plots.py ORDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

#: The colours of process types.
COLOURS = {
    "resize": "#1b7f5c",
    "fetch": "#5aa9a3",
    "upload": "#9fc9c3",
    "notify": "#c9b458",
    "ingest": "#d98c5f",
    "consumer": "#8c939c",
}

#: The colours of phases, the lowest rate first.
SHADES = ("#c9b458", "#9fc9c3", "#5aa9a3", "#1b7f5c")


def stacked(panel: Any, values: dict[str, dict[str, float]], unit: str) -> None:
    """Draw a bar for each contender, in parts."""
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


def grouped(panel: Any, values: dict[str, dict[str, list[float]]]) -> None:
    """Draw a bar for each phase of each contender, with a line to a second value if there is one."""
    phases = list(dict.fromkeys(phase for each in values.values() for phase in each))
    height = 0.8 / len(phases)
    for number, (phase, colour) in enumerate(zip(phases, SHADES, strict=False)):
        found = [(place, each[phase]) for place, each in enumerate(values.values()) if phase in each]
        places = [place + height * (number + 0.5) - 0.4 for place, _ in found]
        panel.barh(places, [each[0] for _, each in found], height=0.9 * height, color=colour, label=phase)
        for place, (_, each) in zip(places, found, strict=True):
            if len(each) > 1:
                panel.plot(each, [place, place], color="#444", linewidth=1)
            text = ", ".join(f"{value:.0f}" if value >= 20 else f"{value:.1f}" for value in each)
            panel.text(each[-1], place, f" {text}", va="center", fontsize=6)
    panel.set_yticks(range(len(values)), list(values))
    panel.set_xlim(0, 1.2 * max(max(each) for phases in values.values() for each in phases.values()))
    panel.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=len(phases))


def main() -> None:
    """Draw the ordered plot."""
    order = json.loads(Path(sys.argv[1]).read_text())
    figure, axes = plt.subplots(2, 2, figsize=(13, 8), layout="constrained")
    for axis, each in zip(axes[0], order["sides"], strict=True):
        stacked(axis, each["cpu"], "{:.0f} ms")
        for value, style in ((each["rendering"], "--"), (each["sharp"], ":")):
            if value:
                axis.axvline(value, color="#b03a2e", linestyle=style, linewidth=1)
        title = f"CPU of an image at saturation, {each['side']} px (dashed: rendering; dotted: sharp)"
        axis.set_title(title, loc="left", fontsize=9)
    for axis, (title, values) in zip(axes[1], order["grouped"].items(), strict=True):
        grouped(axis, values)
        axis.set_title(title, loc="left", fontsize=9)
    for axis in axes.flat:
        axis.invert_yaxis()
        axis.tick_params(axis="both", labelsize=8, length=0)
        axis.spines[["top", "right"]].set_visible(False)
        for label in axis.get_yticklabels():
            label.set_fontweight("bold" if label.get_text() in order["ours"] else "normal")
    figure.savefig(order["out"], dpi=120)


if __name__ == "__main__":
    main()
