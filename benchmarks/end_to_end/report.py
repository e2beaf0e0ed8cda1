"""Writes the results as Markdown between the marks of docs/performance.md."""

from __future__ import annotations

import os
import platform
import re
import textwrap
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import paper
from entrants import ENTRANTS, ROOT
from figures import Figures, Goal, goals, percentile
from markdown import replace_marked, rows
from measure import SATURATION

from pipeline.ops.prices import DATE, PRICES, REGION

PAGE = ROOT / "docs/performance.md"

#: The contender that the sentences describe, and the contenders that they compare it with.
OURS, PLAIN, DRAMATIQ = "file", "plain", "dramatiq"


def _title(key: str) -> str:
    return f"**{ENTRANTS[key].title}**" if ENTRANTS[key].is_ours else ENTRANTS[key].title


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _paragraph(text: str) -> str:
    return textwrap.fill(text, width=120, break_long_words=False, break_on_hyphens=False)


def cost(figures: Figures) -> str:
    """Describe the cost of an image at each load."""
    small = figures.sides[0]
    phases = [*figures.kept(OURS, small), SATURATION]
    sqs = [f"{figures.classes(OURS, small, each)['sqs']:.1f} at {each}" for each in phases]
    price = [f"${sum(figures.dollars(OURS, small, each).values()):.2f}" for each in phases]
    of_plain = [f"{figures.cpu(OURS, each) / figures.cpu(PLAIN, each):.2f}" for each in figures.sides]
    python = ".".join(platform.python_version_tuple()[:2])
    return _paragraph(
        f"The cost of an image depends on the load, because jobs share requests. Its SQS requests are {_listed(sqs)} "
        f"({figures.number(OURS, small, 'rate'):.0f}/s here), and a million images cost {_listed(price)} "
        f"({small} pixels, `file://` staging, AWS's list prices for requests and CPU). "
        f"At saturation and with {_listed([*map(str, figures.sides)])} pixels, its CPU is {_listed(of_plain)} "
        f"of a plain Pillow consumer's (Python {python})."
    )


def compared(figures: Figures) -> str:
    """Compare waiting, requests and memory with plain dramatiq-sqs."""
    side = figures.sides[0]
    shown = []
    for phase in figures.kept(OURS, side):
        if phase in figures.kept(DRAMATIQ, side):
            ours, theirs = (1000 * percentile(figures.waits(key, side, phase), 50) for key in (OURS, DRAMATIQ))
            shown.append(f"{ours:.0f} ms instead of {theirs:.0f} at {phase}")
    ours, theirs = (figures.classes(key, side)["sqs"] for key in (OURS, DRAMATIQ))
    memory = figures.number(OURS, side, "memory") / figures.number(DRAMATIQ, side, "memory")
    p50 = f"the p50 is {_listed(shown)}. At" if shown else "at"
    return _paragraph(
        f"Compared with plain dramatiq-sqs (`file://`, {side} pixels): {p50} saturation, an image takes "
        f"{ours:.1f} SQS requests instead of {theirs:.1f}. "
        f"All processes together take {memory:.1f} times its memory."
    )


def goals_table(figures: Figures) -> str:
    """Make a row for each promise: its measurements with both kinds of staging, and its limit."""
    promises: defaultdict[str, dict[str, Goal]] = defaultdict(dict)
    for goal in goals(figures):
        promises[goal.promise][goal.key] = goal
    body = []
    for promise, found in promises.items():
        cells = []
        for key in ("file", "s3"):
            goal = found.get(key)
            cells += [_number(goal.measured), _number(goal.limit)] if goal else ["", ""]
        is_met = all(goal.is_met for goal in found.values())
        body.append([promise, *cells, "yes" if is_met else "**no**"])
    return rows(["promise, per image", "file://", "at most", "s3://", "at most", "met"], body)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def saturation_table(figures: Figures, side: int) -> str:
    """Make a row for each contender."""
    body = []
    for key in figures.contenders:
        cpu, classes, dollars = figures.cpu(key, side), figures.classes(key, side), figures.dollars(key, side)
        body.append(
            [
                _title(key),
                f"{cpu:.1f}",
                f"{cpu / figures.rendering(side):.2f}",
                *(f"{classes[name]:.2f}" for name in ("sqs", "put", "get")),
                f"{sum(dollars.values()):.2f}",
                f"{dollars['cpu']:.2f}",
                f"{figures.number(key, side, 'rate'):.1f}",
                f"{figures.number(key, side, 'memory') / 1e6:.0f}",
            ]
        )
    heading = [f"at saturation, {side} px, per image", "CPU ms", "of rendering", "SQS", "S3 PUT", "S3 GET"]
    return rows([*heading, "$ per million", "of it CPU", "images/s", "memory, MB"], body)


def waits_table(figures: Figures) -> str:
    """Show the waiting times at each rate, or the throughput of a contender that falls behind."""
    side = figures.sides[0]
    body = []
    for key in figures.contenders:
        throughput = figures.number(key, side, "rate")
        cells = []
        for phase in figures.steady:
            if figures.falls_behind(key, side, phase):
                cells.append("falls behind")
            else:
                waits = figures.waits(key, side, phase)
                cells.append(", ".join(f"{1000 * percentile(waits, p):.0f}" for p in (50, 95, 99)))
        body.append([_title(key), *cells, f"{throughput:.1f}"])
    heading = [f"ms from message to postback, {side} px: p50, p95, p99", *figures.steady]
    return rows([*heading, "saturation, images/s"], body)


def cost_table(figures: Figures) -> str:
    """Show SQS requests and dollars at each rate."""
    side = figures.sides[0]
    body = []
    for key in figures.contenders:
        cells = []
        for phase in [*figures.steady, SATURATION]:
            if phase != SATURATION and figures.falls_behind(key, side, phase):
                cells.append("falls behind")
            else:
                dollars = sum(figures.dollars(key, side, phase).values())
                cells.append(f"{figures.classes(key, side, phase)['sqs']:.1f}, {dollars:.2f}")
        body.append([_title(key), *cells])
    return rows([f"SQS requests per image, and $ per million, {side} px", *figures.steady, SATURATION], body)


def cpu_table(figures: Figures, side: int) -> str:
    """Show CPU time by process type."""
    found = {key: figures.cpu_by_type(key, side) for key in figures.contenders if key != PLAIN}
    names = dict.fromkeys(name for each in found.values() for name in each)
    names = [name for name in names if any(each.get(name, 0) >= 0.05 for each in found.values())]
    body = [[_title(key), *(f"{each.get(name, 0):.1f}" for name in names)] for key, each in found.items()]
    return rows([f"CPU ms at saturation, {side} px", *names], body)


def prices() -> str:
    """List the prices with their sources."""
    listed = [f"[{each.what}]({each.source}) ${each.dollars:g} a {each.per}" for each in PRICES.values()]
    return f"List prices, {REGION}, {DATE}: {'; '.join(listed)}."


def alone(figures: Figures) -> str:
    """Describe rendering alone, and sharp's renditions."""
    found = []
    for side in figures.sides:
        of_sharp = f"; sharp, {taken:.1f} ms" if (taken := figures.sharp(side)) else ""
        alone, both = (figures.rendering(side, how) for how in ("alone", "on all cores"))
        found.append(f"{side} px: {alone:.1f} ms, {both:.1f} on all cores at once{of_sharp}")
    return f"CPU of rendering alone: {'. '.join(found)}."


def rounds(figures: Figures) -> str:
    """Describe the amount of measurement and the delays."""
    side = figures.sides[-1]
    jobs = sorted({int(figures.number(key, side, "jobs")) for key in figures.contenders})
    few = f", fewer for slow contenders ({jobs[0]} at least)" if len(jobs) > 1 else ""
    how = f"Medians of {figures.rounds} rounds" if figures.rounds > 1 else "One round"
    sqs, s3 = figures.delay
    return f"{how}, with bursts of {jobs[-1]} jobs{few}. SQS answered after {sqs:g} ms, S3 after {s3:g}."


def machine() -> str:
    """List the versions and the machine."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    cpu = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    lock = (Path(__file__).parent / "peers.lock").read_text()
    peers = [
        f"{name} {found[1]}" for name in ("celery", "kombu") if (found := re.search(f"^{name}==(\\S+)", lock, re.M))
    ]
    ours = [f"{name} {version(name)}" for name in ("dramatiq", "dramatiq-sqs", "boto3", "obstore", "Pillow")]
    python = f"Python {platform.python_version()}"
    return f"{', '.join([python, *ours, *peers])}; {os.cpu_count()} cores{f' of an {cpu[1]}' if cpu else ''}."


def _of_page(figures: Figures) -> list[str]:
    small = figures.sides[0]
    parts = [goals_table(figures), alone(figures), rounds(figures), saturation_table(figures, small)]
    return [*parts, waits_table(figures)] if figures.steady else parts


def tables(figures: Figures) -> list[str]:
    """Collect everything that any run can show, of which the page has the first tables."""
    more = [saturation_table(figures, side) for side in figures.sides[1:]]
    more += [cost_table(figures)] if figures.steady else []
    return [*_of_page(figures), *more, cpu_table(figures, figures.sides[-1])]


def write(figures: Figures, sources: Path) -> None:
    """Write the page; `sources` is the folder of the covers."""
    parts = [cost(figures), compared(figures), *_of_page(figures), prices(), machine()]
    replace_marked(PAGE, "bench", "\n\n".join(parts))
    replace_marked(PAGE, "bench-paper", paper.text(figures, sources))
