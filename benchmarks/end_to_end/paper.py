"""Estimates the needs of large fleets from the measurements of one machine, for docs/performance.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import mean

from entrants import ROOT
from figures import Figures
from markdown import rows
from measure import SATURATION, at
from prices import dollars

#: The contender whose figures are used: it stages in S3, because a fleet has many machines.
KEY = "s3"

#: The rate in images per second whose request counts are used: about the rate of each process in a large fleet, which
#: determines how many jobs share a request.
RATE = 20

#: Target CPU utilisation, so that random arrivals do not queue; `make bench` measures waiting at 80 % of throughput.
BUSY = 0.7

#: Hours of a night.
NIGHT = 8

#: Seconds that a thread waits for others in each stage: to download a cover; to read and stage in S3; the same
#: and three objects in sequence; a receiver's answer and a delete. Assumed, because they depend on other servers.
WAITS = {"fetch": 1.0, "resize": 0.1, "upload": 0.2, "notify": 0.3}

#: Messages that dramatiq prefetches per worker thread.
PREFETCH = 2

#: S3's and SQS's quotas: requests per second and prefix, and messages in flight of a standard queue.
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html
#: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
PUTS, GETS, IN_FLIGHT = 3500, 5500, 120_000


@dataclass(frozen=True)
class Aim:
    """A load to plan for."""

    title: str
    rate: float  #: images per second
    images: float  #: in the period that the cost is shown for
    time: str


AIMS = (
    Aim("1,000 images/s", 1000, 1000 * 86_400, "a day"),
    Aim("ten million a night", 10_000_000 / (NIGHT * 3600), 10_000_000, "a night"),
)


def threads() -> dict[str, int]:
    """Return the threads per process of each stage in the Procfile."""
    procfile = (ROOT / "Procfile").read_text(encoding="utf-8")
    return {name: int(count) for name, count in re.findall(r"^(\w+):.*--threads[ =](\d+)", procfile, re.MULTILINE)}


def processes(rate: float, cpu_ms: float, wait: float, per_process: int) -> tuple[float, int]:
    """Return a stage's busy vCPUs and its processes: enough for its CPU and for waiting threads (Little's law)."""
    cpus = rate * cpu_ms / 1000
    waiting = rate * (wait + cpu_ms / 1000)
    return cpus, max(ceil(cpus / BUSY), ceil(waiting / per_process / BUSY))


def workers(figures: Figures, side: int, aim: Aim) -> str:
    """Make the table of one load."""
    own, cpu = threads(), figures.cpu_by_type(KEY, side)
    body, total, count = [], 0.0, 0
    for stage, milliseconds in cpu.items():
        if stage in WAITS or stage == "ingest":
            wait, each = WAITS.get(stage, 0.0), own.get(stage, 1)
            cpus, needed = processes(aim.rate, milliseconds, wait, each)
            total, count = total + cpus / BUSY, count + needed
            shown = [f"{milliseconds:.1f}", f"{cpus / BUSY:.1f}", f"{wait:g} s", str(each), str(needed)]
            body.append([stage, *shown])
    body.append(["together", f"{sum(cpu.values()):.1f}", f"{total:.1f}", "", "", str(count)])
    heading = [
        f"{aim.title}, {side} px",
        "CPU ms per image",
        f"vCPUs, {BUSY:.0%} busy",
        "waits",
        "threads",
        "processes",
    ]
    return rows(heading, body)


def traffic(figures: Figures, side: int, cover: float) -> str:
    """Show the requests, bytes and cost of all loads; `cover` is the size of one cover in bytes."""
    small = figures.sides[0]  # Rates are measured for this side; the number of requests does not depend on it.
    phase = SATURATION if figures.falls_behind(KEY, small, at(RATE)) else at(RATE)
    classes = figures.classes(KEY, small, phase)
    cost = dollars(figures.requests(KEY, small, phase), figures.cpu(KEY, side))
    own = threads()
    body = []
    for aim in AIMS:
        in_flight = {
            stage: processes(aim.rate, ms, WAITS[stage], own[stage])[1] * own[stage] * PREFETCH
            for stage, ms in figures.cpu_by_type(KEY, side).items()
            if stage in WAITS
        }
        paid = {name: each * aim.images / 1e6 for name, each in (cost | {"cpu": cost["cpu"] / BUSY}).items()}
        body.append(
            [
                f"{aim.title}, {side} px",
                f"{aim.rate * classes['sqs']:,.0f}",
                f"{aim.rate * (classes['put'] + classes['free']):,.0f}",
                f"{aim.rate * classes['get']:,.0f}",
                f"{max(in_flight.values()):,}",
                f"{8 * aim.rate * cover / 1e9:.1f}",
                f"{sum(paid.values()):,.0f} {aim.time}",
                f"{paid['s3']:,.0f} + {paid['sqs']:,.0f} + {paid['cpu']:,.0f}",
            ]
        )
    heading = ["", "SQS/s", "S3 PUT-class and DELETE/s", "S3 GET-class/s", "in flight, one queue"]
    return rows([*heading, "Gbit/s of covers", "$", "S3 + SQS + CPU"], body)


def text(figures: Figures, sources: Path) -> str:
    """Return the workers of one load, and the traffic and cost of all."""
    parts = [workers(figures, figures.sides[0], AIMS[0])]
    for side in figures.sides:
        cover = mean(path.stat().st_size for path in sources.glob(f"*-{side}.jpg"))
        parts.append(traffic(figures, side, cover))
    return "\n\n".join(parts)
