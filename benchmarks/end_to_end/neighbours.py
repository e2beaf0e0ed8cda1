"""Measures how much one bad neighbour slows down the jobs of everyone else, from message to postback.

`make bench-neighbours` runs the Procfile's own processes on an emulated SQS that answers in 10 ms and an S3 in 20. One
live job is sent every 250 ms: first alone, then beside each bad neighbour. It prints the p50 and p95 of these jobs. The
exit status is 1 if a promise is broken. `--rates` instead compares rates of 2, 10, 20 and 33 jobs a second with plain
dramatiq-sqs.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from math import inf, isinf
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
sys.path += [str(HERE.parent / "images"), str(HERE.parents[1])]

import stack  # noqa: E402
import world  # noqa: E402
from bad_servers import Answer, bad_servers, drip, flood, hang, serving_files  # noqa: E402
from entrants import ENTRANTS  # noqa: E402
from figures import percentile  # noqa: E402
from measure import RATES, Contender, at, moments, running  # noqa: E402
from PIL import Image  # noqa: E402
from prices import by_class  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from usage import highest_bytes, memory_bytes  # noqa: E402

from tests.corpus.bombs import BOMBS  # noqa: E402

#: Milliseconds until SQS and S3 answer.
DELAY = [10.0, 20.0]

#: The rates of `--rates` with their duration in seconds. 33/s is 80 % of plain dramatiq-sqs's throughput on two cores.
EQUAL_RATES = RATES | {33: 8.0}

#: Seconds between two live jobs, and seconds for the last ones to end.
EVERY, GRACE = 0.25, 15.0

#: The side of the covers of live jobs in pixels, and that of giants: 100 megapixels.
SIDE, GIANT = 1400, 10_000

#: The promise on the p95 beside a neighbour: at most this multiple of that alone, or this many seconds more.
TIMES, MORE = 2.0, 0.5

#: The promise on the memory of the process that fetches (docs/deploying.md).
FETCH_BYTES = 1_000_000_000

#: The same beside giants and bombs, which need the cores for themselves.
MORE_BESIDE_GIANTS, MORE_BESIDE_BOMBS = 1.5, 2.0

#: Files that once cost gigabytes or minutes, their size, and the promise on the memory of any process beside them.
BOMB_NAMES = ("AVIF: extents", "AVIF: items", "GIF: comment", "PNG: transparency", "TIFF: tags of a BigTIFF")
BOMB_SIZE, PROCESS_BYTES = 50_000_000, 1_300_000_000

#: The folder of a neighbour's jobs, and a cover that is published there before.
FOLDER, PUBLISHED = "Neighbour", f"noise-{SIDE}/published"

Payload = dict[str, str]


@dataclass(frozen=True)
class Neighbour:
    """A kind of bad neighbour.

    Args:
        title: its name in the table.
        jobs: the number of its jobs.
        hosts: the number of its hosts.
        answer: how its servers answer; None if it has none.
        more: how much the p95 of the others may grow in seconds. It is infinite where the servers, which run on the
            same cores, need them for themselves.
        must_end: whether its own jobs must end too.
        side: the side of its covers in pixels, unless its servers have them.
        most: the promise on the memory of any process, in bytes; without one only fetch is bounded.
    """

    title: str
    jobs: int
    hosts: int = 0
    answer: Answer | None = None
    more: float = MORE
    must_end: bool = False
    side: int = SIDE
    most: float = inf

    def payloads(self, shown: world.World, urls: list[str]) -> dict[str, Payload]:
        """Return the payloads of its jobs, by job id."""
        found = shown.payloads(self.side, self.jobs)
        for number, payload in enumerate(found.values()):
            payload["bucket_name"] = FOLDER
            if len(urls) == 1:  # a receiver; its jobs need no rendering, because their cover is published already
                payload |= {"image_url": f"{shown.base}/cover/{PUBLISHED}", "postback_url": f"{urls[0]}/{number}"}
            elif urls:
                payload["image_url"] = f"{urls[number % len(urls)]}/{number}.jpg"
        return found


NEIGHBOURS = {
    "receiver": Neighbour("150 postbacks to a receiver that hangs", 150, 1, hang),
    "hang": Neighbour("96 sources that hang, each its own host", 96, 96, hang),
    "drip": Neighbour("96 sources that drip, each its own host", 96, 96, drip),
    "giants": Neighbour(
        "30 progressive JPEGs of 100 megapixels", 30, more=MORE_BESIDE_GIANTS, must_end=True, side=GIANT
    ),
    "large": Neighbour("96 sources of 50 MB, each its own host", 96, 96, flood(50_000_000), more=inf),
    "bombs": Neighbour(
        "four each of five bombs of 50 MB",
        20,
        len(BOMB_NAMES),
        serving_files([partial(BOMBS[name], BOMB_SIZE) for name in BOMB_NAMES]),
        more=MORE_BESIDE_BOMBS,
        must_end=True,
        most=PROCESS_BYTES,
    ),
}


def jpeg(side: int, *, progressive: bool = False) -> bytes:
    """Return a picture with some detail."""
    noise = Image.effect_noise((side // 8, side // 8), 80).resize((side, side), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)]).save(
        out, "JPEG", quality=80, progressive=progressive
    )
    return out.getvalue()


def sources(folder: Path, *, giant: bool) -> Path:
    """Write the covers into `folder`, named as `world.serving` expects."""
    folder.mkdir()
    (folder / f"noise-{SIDE}.jpg").write_bytes(jpeg(SIDE))
    if giant:
        (folder / f"noise-{GIANT}.jpg").write_bytes(jpeg(GIANT, progressive=True))
    return folder


@dataclass
class Series:
    """The times of live jobs; infinite for those without a postback."""

    waits: list[float]
    fetch_bytes: int = 0  #: the highest memory of the process that fetches
    process_bytes: int = 0  #: that of the process with the most

    @property
    def p50(self) -> float:
        return median(self.waits)

    @property
    def p95(self) -> float:
        return sorted(self.waits)[int(0.95 * (len(self.waits) - 1))]


class Bench:
    """Sends jobs to the running service.

    Args:
        contender: the service.
        shown: its sources and its receiver.
        send: puts one job into the input queue.
    """

    def __init__(self, contender: Contender, shown: world.World, send: Callable[[Payload], None]) -> None:
        self._contender = contender
        self._world = shown
        self.send = send

    def live(self, seconds: float) -> Series:
        """Send one job every `EVERY` seconds for this long, and measure each."""
        sent: dict[str, float] = {}
        began = time.monotonic()
        groups = self._contender.groups()
        fetch = [group for group, name in groups.items() if name == "fetch"]
        peak, highest = 0, 0
        for number, (job, payload) in enumerate(self._world.payloads(SIDE, int(seconds / EVERY)).items()):
            time.sleep(max(0.0, began + number * EVERY - time.monotonic()))
            sent[job] = time.monotonic()
            self.send(payload)
            if number % 4 == 0:
                peak, highest = max(peak, memory_bytes(fetch)), max(highest, highest_bytes(groups))
        arrived = self._world.arrived(sent, GRACE)
        return Series([arrived.get(job, inf) - since for job, since in sent.items()], peak, highest)

    @contextmanager
    def beside(self, neighbour: Neighbour) -> Iterator[dict[str, Payload]]:
        """Send all jobs of a neighbour, as fast as possible."""
        ((job, first),) = self._world.payloads(SIDE, 1).items()
        self.send(first | {"bucket_name": FOLDER, "image_url": f"{self._world.base}/cover/{PUBLISHED}"})
        self._world.wait_for([job], GRACE)
        with bad_servers(neighbour.answer or hang, neighbour.hosts) as urls:
            jobs = neighbour.payloads(self._world, urls)
            flood = threading.Thread(target=lambda: [self.send(each) for each in jobs.values()])
            flood.start()
            yield jobs
            flood.join()

    def ended(self, jobs: dict[str, Payload], timeout: float) -> int:
        """Return how many jobs end within `timeout` seconds."""
        return len(self._world.arrived(jobs, timeout))


@dataclass
class Row:
    """The figures of one neighbour."""

    neighbour: Neighbour
    alone: Series
    beside: Series
    ended: int

    @property
    def is_good(self) -> bool:
        """Whether the promise is kept."""
        limit = self.alone.p95 + self.neighbour.more
        if not self.neighbour.must_end:
            limit = max(limit, TIMES * self.alone.p95)
        is_quick = self.beside.p95 <= limit
        all_ended = self.ended == self.neighbour.jobs or not self.neighbour.must_end
        is_small = self.beside.fetch_bytes <= FETCH_BYTES and self.beside.process_bytes <= self.neighbour.most
        return is_quick and all_ended and is_small

    def cells(self) -> list[str]:
        """Return its line of the table."""
        mb = (f"{each.fetch_bytes / 1e6:.0f}, {each.process_bytes / 1e6:.0f}" for each in (self.alone, self.beside))
        ended = f"{self.ended} of {self.neighbour.jobs}"
        arrow = (f"{_shown(getattr(self.alone, p))} → {_shown(getattr(self.beside, p))}" for p in ("p50", "p95"))
        return [self.neighbour.title, *arrow, " → ".join(mb), ended, "yes" if self.is_good else "NO"]


def _shown(seconds: float) -> str:
    return "none" if isinf(seconds) else f"{seconds:.2f} s"


def measured(neighbour: Neighbour, covers: Path, options: argparse.Namespace) -> Row:
    """Measure one neighbour on a stack of its own."""
    entrant = ENTRANTS[options.staging]
    sides = {SIDE, neighbour.side}
    with (
        tempfile.TemporaryDirectory() as folder,
        world.serving(covers, sides) as shown,
        running(entrant, Path(folder), shown) as service,
        entrant.sending(os.environ) as send,
    ):
        service.warm_up(SIDE, 20)
        bench = Bench(service, shown, send)
        alone = bench.live(options.alone)
        with bench.beside(neighbour) as jobs:
            beside = bench.live(options.beside)
            ended = bench.ended(jobs, options.end if neighbour.must_end else 0)
        if options.log:
            (options.log / f"{neighbour.title.replace(' ', '-')}.log").write_text("\n".join(service.last_lines))
        return Row(neighbour, alone, beside, ended)


def compare_rates(covers: Path, console: Console, keys: list[str]) -> None:
    """Compare this project with plain dramatiq-sqs at equal rates."""
    table = Table(title=f"Equal rates, covers of {SIDE} px")
    for heading in ("", "rate", "p50", "p95", "SQS requests a job"):
        table.add_column(heading, justify="right" if heading else "left")
    with world.serving(covers, (SIDE,)) as shown:
        for key in keys:
            with tempfile.TemporaryDirectory() as folder, running(ENTRANTS[key], Path(folder), shown) as service:
                service.warm_up(SIDE, 40)
                for rate, seconds in EQUAL_RATES.items():
                    phase = service.steady(SIDE, moments(rate, 2 * seconds))
                    sqs = by_class(asdict(phase)["requests"])["sqs"]
                    figures = [f"{1000 * percentile(phase.waits, percent):.0f} ms" for percent in (50, 95)]
                    table.add_row(ENTRANTS[key].title, at(rate), *figures, f"{sqs:.2f}")
                burst = service.burst(SIDE, 160)
                sqs = by_class(burst.requests)["sqs"]
                rate = f"{burst.rate:.1f}/s"
                table.add_row(
                    ENTRANTS[key].title, "saturation", rate, f"{sum(burst.cpu.values()):.1f} ms CPU", f"{sqs:.2f}"
                )
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NEIGHBOURS, default=list(NEIGHBOURS), help="neighbours")
    parser.add_argument("--alone", type=float, default=12.0, help="seconds alone (default: %(default)s)")
    parser.add_argument("--beside", type=float, default=45.0, help="seconds beside one (default: %(default)s)")
    parser.add_argument("--end", type=float, default=240.0, help="seconds for giants to end (default: %(default)s)")
    parser.add_argument("--staging", choices=["file", "s3"], default="file", help="staging storage (default: file)")
    parser.add_argument("--rates", nargs="*", choices=ENTRANTS, help="compare rates of these instead")
    parser.add_argument("--log", type=Path, help="a folder for the last lines of the processes' logs")
    options = parser.parse_args()
    stack.clear_environment()
    stack.use_own_emulator(*(each / 1000 for each in DELAY))
    console = Console(width=150)
    with tempfile.TemporaryDirectory() as folder:
        wants_giant = options.rates is None and "giants" in options.only
        covers = sources(Path(folder) / "covers", giant=wants_giant)
        if options.rates is not None:
            compare_rates(covers, console, options.rates or ["file", "dramatiq", "s3", "dramatiq-s3"])
            return
        table = Table(title=f"One live job every {EVERY:g} s, from message to postback: alone → beside")
        for heading in ("beside", "p50", "p95", "MB of fetch, of the largest process", "ended", "kept"):
            table.add_column(heading, justify="left" if heading == "beside" else "right")
        rows = []
        for name in options.only:
            rows.append(measured(NEIGHBOURS[name], covers, options))
            table.add_row(*rows[-1].cells())
            console.print(*rows[-1].cells(), sep=" | ", style="dim")
        console.print(table)
    if not all(row.is_good for row in rows):
        sys.exit("a bad neighbour made the others wait longer than promised")


if __name__ == "__main__":
    main()
