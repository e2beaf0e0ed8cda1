"""The results as Markdown, written between the marks of docs/performance.md, with a plot beside it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import paper
from entrants import ENTRANTS, ROOT
from figures import Figures, goals, percentile
from markdown import replace_marked, rows
from measure import LOAD
from peers import Peers
from prices import DATE, PRICES, REGION, by_class

PAGE, SCALING, PLOT = (ROOT / "docs" / name for name in ("performance.md", "scaling.md", "end-to-end.png"))


def _title(key: str) -> str:
    return f"**{ENTRANTS[key].title}**" if ENTRANTS[key].is_ours else ENTRANTS[key].title


def goals_table(figures: Figures) -> str:
    """What is promised, and what was measured."""
    body = [
        [each.what, each.goal, each.shown, f"**{each.verdict}**" if each.is_met is False else each.verdict]
        for each in goals(figures)
    ]
    return rows(["promise", "goal", "measured", "met"], body)


def main_table(figures: Figures, side: int) -> str:
    """A row for each contender."""
    body = []
    for key in figures.contenders:
        cpu, classes = figures.cpu(key, side), by_class(figures.requests(key, side))
        alone = figures.rendering(side)
        cost = figures.dollars(key, side)
        body.append(
            [
                _title(key),
                f"{cpu:.1f}",
                f"{cpu / alone:.2f}" if alone else "",
                *(f"{classes[name]:.2f}" for name in ("sqs", "put", "get")),
                f"{sum(cost.values()):.2f}",
                f"{cost['cpu']:.2f}",
                f"{figures.number(key, side, 'rate'):.1f}",
                f"{figures.number(key, side, 'emulator'):.1f}",
                f"{figures.number(key, side, 'memory') / 1e6:.0f}",
            ]
        )
    heading = [f"{side} x {side}, of each image", "CPU ms", "of rendering", "SQS", "S3 PUT", "S3 GET"]
    heading += ["$ a million", "of it CPU", "images/s", "emulator's ms", "memory, MB"]
    return rows(heading, body)


def cpu_table(figures: Figures, side: int) -> str:
    """CPU by process type."""
    found = {key: figures.cpu_by_type(key, side) for key in figures.contenders if key != "plain"}
    names = dict.fromkeys(name for each in found.values() for name in each)
    names = [name for name in names if any(each.get(name, 0) >= 0.05 for each in found.values())]
    body = [[_title(key), *(f"{each.get(name, 0):.1f}" for name in names)] for key, each in found.items()]
    return rows([f"CPU ms, {side} x {side}", *names], body)


def requests_table(figures: Figures, side: int) -> str:
    """Requests by kind."""
    found = {key: figures.requests(key, side) for key in figures.contenders}
    kinds = sorted({kind for each in found.values() for kind, count in each.items() if count >= 0.005}, reverse=True)
    body = [[kind, *(f"{each.get(kind, 0):.2f}" for each in found.values())] for kind in kinds]
    return rows([f"requests, {side} x {side}", *map(_title, found)], body)


def waits_table(figures: Figures, side: int) -> str:
    """From message to postback."""
    body = []
    for key in figures.contenders:
        shown = [_title(key)]
        for phase in ("idle", "load"):
            waits = figures.waits(key, side, phase)
            shown += [f"{1000 * percentile(waits, p):.0f}" if waits else "" for p in (50, 95, 99)]
            shown.append(str(len(waits)))
        body.append([*shown, f"{LOAD * figures.number(key, side, 'rate'):.1f}"])
    columns = [f"{phase}{what}" for phase in ("idle, ", "80 %, ") for what in ("p50", "p95", "p99", "jobs")]
    columns.append("80 %, jobs/s")
    return rows([f"ms from message to postback, {side} x {side}", *columns], body)


def prices_table() -> str:
    """The list prices."""
    body = [
        [each.what, each.per, f"{each.dollars:g}", f"[{each.source.split('/')[3]}]({each.source})"]
        for each in PRICES.values()
    ]
    return rows([f"list prices, {REGION}, {DATE}", "for a", "US$", "source"], body)


def alone(figures: Figures) -> str:
    """Rendering alone, and sharp's renditions."""
    found = []
    for side in figures.sides:
        of_sharp = f"; sharp, {taken:.1f} ms" if (taken := figures.sharp(side)) else ""
        alone, both, kept = (figures.rendering(side, how) or 0 for how in ("alone", "on all cores", "as a worker"))
        said = f"{side} px: {alone:.1f} ms, {both:.1f} on all cores at once, {kept:.1f} with a worker's malloc settings"
        found.append(f"{said}{of_sharp}")
    return f"CPU of rendering alone: {'. '.join(found)}."


def rounds(figures: Figures) -> str:
    """How much was measured."""
    side = figures.sides[-1]
    jobs = sorted({figures.jobs(key, side) for key in figures.contenders})
    few = f", the plain consumer {jobs[0]}" if len(jobs) > 1 else ""
    how = f"Medians of {figures.rounds} rounds" if figures.rounds > 1 else "One round"
    return f"{how}, with bursts of {jobs[-1]} jobs{few}."


def machine() -> str:
    """Versions, and what it ran on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    cpu = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    lock = (Path(__file__).parent / "peers.lock").read_text()
    peers = [
        f"{name} {found[1]}" for name in ("celery", "kombu") if (found := re.search(f"^{name}==(\\S+)", lock, re.M))
    ]
    ours = [f"{name} {version(name)}" for name in ("dramatiq", "dramatiq-sqs", "boto3", "obstore", "Pillow")]
    python = f"Python {platform.python_version()}"
    return f"{', '.join([python, *ours, *peers])}; {os.cpu_count()} cores{f' of an {cpu[1]}' if cpu else ''}."


def text(figures: Figures) -> str:
    """All of it."""
    parts = [goals_table(figures), alone(figures), rounds(figures)]
    parts += [main_table(figures, side) for side in figures.sides]
    parts += [waits_table(figures, side) for side in figures.sides if figures.was_waited_for(side)]
    parts += [
        cpu_table(figures, figures.sides[-1]),
        requests_table(figures, figures.sides[-1]),
        prices_table(),
        machine(),
    ]
    return "\n\n".join(parts)


def plot(figures: Figures, peers: Peers) -> None:
    """Drawn in the peers' environment, which has what draws."""
    order = {
        "out": str(PLOT),
        "sides": [
            {
                "side": side,
                "rendering": figures.rendering(side),
                "sharp": figures.sharp(side),
                "cpu": {ENTRANTS[key].title: figures.cpu_by_type(key, side) for key in figures.contenders},
            }
            for side in figures.sides
        ],
        "dollars": {ENTRANTS[key].title: figures.dollars(key, figures.sides[-1]) for key in figures.contenders},
        "waits": {
            ENTRANTS[key].title: {
                phase: [1000 * percentile(waits, p) for p in (50, 95)]
                for phase in ("idle", "load")
                if (waits := figures.waits(key, figures.sides[-1], phase))
            }
            for key in figures.contenders
        },
        "ours": [each.title for each in ENTRANTS.values() if each.is_ours],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(order, file)
        file.flush()
        subprocess.run([peers.python, Path(__file__).with_name("plots.py"), file.name], check=True)  # noqa: S603


def write(figures: Figures, peers: Peers) -> None:
    """Write the page and the plot."""
    replace_marked(PAGE, "bench", text(figures))
    replace_marked(SCALING, "bench", paper.text(figures, peers.sources))
    plot(figures, peers)
