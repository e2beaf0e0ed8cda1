"""What was measured, brought together over the rounds: figures for tables, and the goals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from statistics import median, quantiles
from typing import Any

from entrants import ENTRANTS
from prices import by_class, dollars

#: What is promised: see `goals`. Of (c)'s CPU; of rendering's; requests; of the stages' own times, and seconds more.
OF_PLAIN = 0.2
OF_RENDERING = {"file": 1.5, "s3": 1.8}
PUTS = {"file": 3.1, "s3": 5.1}
SQS = 3.5
TIMES, MORE = 1.5, 0.1

Result = dict[str, Any]


def percentile(values: list[float], percent: int) -> float:
    """By interpolation."""
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


class Figures:
    """Medians over rounds, by contender and side."""

    def __init__(self, results: list[Result]) -> None:
        self._results = results
        self.sides = sorted({each["side"] for each in results})
        self.contenders = [key for key in ENTRANTS if any(each["what"] == key for each in results)]

    @cached_property
    def rounds(self) -> int:
        """How many there were."""
        return 1 + max(each.get("round", 0) for each in self._results)

    def _all(self, what: str, side: int) -> list[Result]:
        return [each for each in self._results if each["what"] == what and each["side"] == side]

    def rendering(self, side: int, how: str = "alone") -> float | None:
        """CPU milliseconds of rendering alone."""
        found = [each[how] for each in self._all("rendering", side)]
        return median(found) if found else None

    def sharp(self, side: int) -> float | None:
        """CPU milliseconds of sharp's renditions alone."""
        found = [each["cpu"] for each in self._all("sharp", side)]
        return median(found) if found else None

    def bursts(self, key: str, side: int) -> list[Result]:
        """Of every round."""
        return [each["burst"] for each in self._all(key, side)]

    def cpu_by_type(self, key: str, side: int) -> dict[str, float]:
        """CPU milliseconds of each process type."""
        rounds = [each["cpu"] for each in self.bursts(key, side)]
        return {name: median(each[name] for each in rounds) for name in rounds[0]}

    def system_by_type(self, key: str, side: int) -> dict[str, float]:
        """What of these the kernel took."""
        rounds = [each["system"] for each in self.bursts(key, side)]
        return {name: median(each[name] for each in rounds) for name in rounds[0]}

    def cpu(self, key: str, side: int) -> float:
        """CPU milliseconds of all of a contender's processes."""
        return median(sum(each["cpu"].values()) for each in self.bursts(key, side))

    def requests(self, key: str, side: int) -> dict[str, float]:
        """Requests by kind."""
        rounds = [each["requests"] for each in self.bursts(key, side)]
        kinds = sorted({kind for each in rounds for kind in each})
        return {kind: median(each.get(kind, 0.0) for each in rounds) for kind in kinds}

    def number(self, key: str, side: int, name: str) -> float:
        """The median of a burst's `rate`, `memory` or `emulator`."""
        return median(each[name] for each in self.bursts(key, side))

    def jobs(self, key: str, side: int) -> int:
        """Of a burst."""
        return int(self.bursts(key, side)[0]["jobs"])

    def waits(self, key: str, side: int, phase: str) -> list[float]:
        """Seconds from message to postback of every job of `idle` or `load`."""
        return [seconds for each in self._all(key, side) if phase in each for seconds in each[phase]["seconds"]]

    def was_waited_for(self, side: int) -> bool:
        """Whether waiting was measured on covers of this side."""
        return any(self.waits(key, side, "idle") for key in self.contenders)

    def own_times(self, key: str, side: int) -> list[float]:
        """Seconds that the stages worked on each single job, as they say in their log."""
        return [seconds for each in self._all(key, side) if "idle" in each for seconds in each["idle"]["own"]]

    def dollars(self, key: str, side: int) -> dict[str, float]:
        """What a million images cost."""
        return dollars(self.requests(key, side), self.cpu(key, side))

    def of(self, key: str, side: int) -> dict[str, str]:
        """All figures of one contender, as text."""
        cpu, requests, cost = self.cpu(key, side), self.requests(key, side), self.dollars(key, side)
        shown = {"CPU ms": f"{cpu:.1f}"}
        system = self.system_by_type(key, side)
        shown |= {
            f"  {name} (in the kernel)": f"{each:.1f} ({system[name]:.1f})"
            for name, each in self.cpu_by_type(key, side).items()
        }
        if alone := self.rendering(side):
            shown["CPU, of rendering alone's"] = f"{cpu / alone:.2f}"
        shown["images/s, emulator included"] = f"{self.number(key, side, 'rate'):.1f}"
        shown["  CPU ms of the emulator"] = f"{self.number(key, side, 'emulator'):.1f}"
        classes = by_class(requests)
        for name, title in {"sqs": "SQS requests", "put": "S3 PUT-class requests", "get": "S3 GET-class"}.items():
            shown[title] = f"{classes[name]:.2f}"
        shown |= {f"  {kind}": f"{count:.2f}" for kind, count in requests.items() if count >= 0.005}
        shown["$ per million images"] = f"{sum(cost.values()):.2f}"
        shown |= {f"  {name}": f"{each:.2f}" for name, each in cost.items()}
        shown["peak memory, MB"] = f"{self.number(key, side, 'memory') / 1e6:.0f}"
        for phase, title in {"idle": "idle", "load": "at 80 % load"}.items():
            if waits := self.waits(key, side, phase):
                shown |= {f"{title}, p{p}, ms": f"{1000 * percentile(waits, p):.0f}" for p in (50, 95, 99)}
        return shown


@dataclass(frozen=True)
class Goal:
    """One promise, and what was measured of it."""

    what: str
    goal: str
    shown: str
    is_met: bool | None  #: None where there is no goal

    @property
    def verdict(self) -> str:
        """Whether it is met, in a word."""
        return {True: "yes", False: "no", None: "–"}[self.is_met]  # noqa: RUF001 - an en dash


def goals(figures: Figures) -> Iterator[Goal]:
    """What the project promises, as far as it was measured."""
    ours = [key for key in figures.contenders if ENTRANTS[key].is_ours]
    for side in figures.sides:
        for key in ours:
            title, cpu = f"{ENTRANTS[key].title}, {side}", figures.cpu(key, side)
            if alone := figures.rendering(side):
                limit = OF_RENDERING[key]
                goal, is_met = (f"at most {limit}", cpu / alone <= limit) if side == 3000 else ("reported", None)
                yield Goal(f"{title}: CPU, of rendering alone's", goal, f"{cpu / alone:.2f}", is_met)
            if kept := figures.rendering(side, "as a worker"):
                yield Goal(
                    f"{title}: CPU, of rendering alone's with a worker's malloc settings",
                    "reported",
                    f"{cpu / kept:.2f}",
                    is_met=None,
                )
            if sharp := figures.sharp(side):
                yield Goal(f"{title}: CPU, of sharp's renditions alone", "below 1", f"{cpu / sharp:.2f}", cpu < sharp)
            if "plain" in figures.contenders and side == 3000:
                ratio = cpu / figures.cpu("plain", side)
                yield Goal(
                    f"{title}: CPU, of the plain consumer's", f"at most {OF_PLAIN}", f"{ratio:.2f}", ratio <= OF_PLAIN
                )
            for peer in ("celery", "dramatiq"):
                rival = peer + ("-s3" if key == "s3" else "")
                if rival in figures.contenders:
                    ratio = cpu / figures.cpu(rival, side)
                    yield Goal(f"{title}: CPU, of {ENTRANTS[rival].title}", "below 1", f"{ratio:.2f}", ratio < 1)
            classes = by_class(figures.requests(key, side))
            yield Goal(
                f"{title}: S3 PUT-class requests",
                f"at most {PUTS[key]}",
                f"{classes['put']:.2f}",
                classes["put"] <= PUTS[key],
            )
            yield Goal(f"{title}: SQS requests", f"at most {SQS}", f"{classes['sqs']:.2f}", classes["sqs"] <= SQS)
            if waits := figures.waits(key, side, "idle"):
                limit, half = TIMES * median(figures.own_times(key, side)) + MORE, median(waits)
                yield Goal(
                    f"{title}: idle p50", f"at most {1000 * limit:.0f} ms", f"{1000 * half:.0f} ms", half <= limit
                )
