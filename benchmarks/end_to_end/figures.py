"""Combines the measurements of all rounds into the figures of the tables, and judges the promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf
from statistics import median, quantiles
from typing import Any

from entrants import ENTRANTS
from measure import LOADED, RATES, SATURATION, at
from prices import by_class, dollars

#: The promises, see `goals`: CPU as a share of the plain consumer's; requests at saturation; and for
#: the lowest rate, a multiple of the stages' own work per job, and seconds more.
OF_PLAIN = 0.2
PUTS = {"file": 3.1, "s3": 5.1}
SQS = 3.5
TIMES, MORE = 1.5, 0.1

#: The side of the covers for the promises on rendering and on the plain consumer.
LARGE = 3000

#: A contender falls behind if waiting times grow by more than this many seconds per second: it then does less than nine
#: tenths of the rate.
GROWTH = 0.1

Result = dict[str, Any]


def percentile(values: list[float], percent: int) -> float:
    """Interpolate a percentile."""
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def growth(sent: list[float], waits: list[float]) -> float:
    """Return the growth of waiting times in seconds per second: the median of the last third against the first third.

    Args:
        sent: the time when each job was sent, in order.
        waits: the waiting time of each job.
    """
    third = max(1, len(sent) // 3)
    apart = median(sent[-third:]) - median(sent[:third])
    return (median(waits[-third:]) - median(waits[:third])) / apart if apart else 0.0


class Figures:
    """Medians over rounds, by contender, side and phase."""

    def __init__(self, results: list[Result]) -> None:
        self._results = results
        self.sides = sorted({each["side"] for each in results})
        self.contenders = [key for key in ENTRANTS if any(each["what"] == key for each in results)]
        #: Milliseconds until SQS and S3 answered.
        self.delay: list[float] = results[0]["delay"]

    @cached_property
    def rounds(self) -> int:
        """Return the number of rounds."""
        return 1 + max(each.get("round", 0) for each in self._results)

    @cached_property
    def steady(self) -> list[str]:
        """Return the names of the phases with a rate that any contender did."""
        names = [*map(at, RATES), LOADED]
        return [name for name in names if any(name in each.get("phases", {}) for each in self._results)]

    def _all(self, what: str, side: int) -> list[Result]:
        return [each for each in self._results if each["what"] == what and each["side"] == side]

    def rendering(self, side: int, how: str = "alone") -> float:
        """Return the CPU milliseconds of rendering alone."""
        return median(each[how] for each in self._all("rendering", side))

    def sharp(self, side: int) -> float | None:
        """Return the CPU milliseconds of sharp's renditions alone."""
        found = [each["cpu"] for each in self._all("sharp", side)]
        return median(found) if found else None

    def phases(self, key: str, side: int, phase: str = SATURATION) -> list[Result]:
        """Return this phase of every round that has it."""
        return [each["phases"][phase] for each in self._all(key, side) if phase in each["phases"]]

    def falls_behind(self, key: str, side: int, phase: str) -> bool:
        """Return whether a contender could not keep up with a phase's rate, or skipped it, in most rounds."""
        rounds = [each["phases"].get(phase) for each in self._all(key, side)]
        return median(growth(each["sent"], each["waits"]) if each else inf for each in rounds) > GROWTH

    def kept(self, key: str, side: int) -> list[str]:
        """Return the phases of equal rates in which a contender kept up."""
        return [each for each in self.steady if each != LOADED and not self.falls_behind(key, side, each)]

    def cpu_by_type(self, key: str, side: int, phase: str = SATURATION) -> dict[str, float]:
        """Return the CPU milliseconds of each process type."""
        rounds = [each["cpu"] for each in self.phases(key, side, phase)]
        return {name: median(each[name] for each in rounds) for name in rounds[0]}

    def cpu(self, key: str, side: int, phase: str = SATURATION) -> float:
        """Return the CPU milliseconds of all processes of a contender."""
        return median(sum(each["cpu"].values()) for each in self.phases(key, side, phase))

    def requests(self, key: str, side: int, phase: str = SATURATION) -> dict[str, float]:
        """Return requests by kind."""
        rounds = [each["requests"] for each in self.phases(key, side, phase)]
        kinds = sorted({kind for each in rounds for kind in each})
        return {kind: median(each.get(kind, 0.0) for each in rounds) for kind in kinds}

    def classes(self, key: str, side: int, phase: str = SATURATION) -> dict[str, float]:
        """Return requests by class of price: `sqs`, `put`, `get` and `free`."""
        return by_class(self.requests(key, side, phase))

    def number(self, key: str, side: int, name: str) -> float:
        """Return the `jobs`, `rate` or `memory` of a burst."""
        return median(each[name] for each in self.phases(key, side))

    def waits(self, key: str, side: int, phase: str) -> list[float]:
        """Return the seconds from message to postback of every job."""
        return [seconds for each in self.phases(key, side, phase) for seconds in each["waits"]]

    def own_times(self, key: str, side: int, phase: str) -> list[float]:
        """Return the seconds of work in the stages for each job, as logged."""
        return [seconds for each in self.phases(key, side, phase) for seconds in each["own"]]

    def dollars(self, key: str, side: int, phase: str = SATURATION) -> dict[str, float]:
        """Return the cost of a million images."""
        return dollars(self.requests(key, side, phase), self.cpu(key, side, phase))


@dataclass(frozen=True)
class Goal:
    """One promise with its measurement."""

    promise: str
    key: str  #: one of this project's contenders
    limit: float
    measured: float

    @property
    def is_met(self) -> bool:
        """Return whether the promise is kept."""
        return self.measured <= self.limit


def goals(figures: Figures) -> Iterator[Goal]:
    """Return the promises that were measured."""
    ours = [key for key in figures.contenders if ENTRANTS[key].is_ours]
    for side in figures.sides:
        for key in ours:
            cpu = figures.cpu(key, side)
            suffix = "-s3" if key == "s3" else ""
            if sharp := figures.sharp(side):
                yield Goal(f"{side} px: CPU of rendering alone, of sharp's", key, 1, figures.rendering(side) / sharp)
            for rival, limit in {"plain": OF_PLAIN, f"celery{suffix}": 1, f"dramatiq{suffix}": 1}.items():
                if rival in figures.contenders and (rival != "plain" or side == LARGE):
                    name = ENTRANTS[rival].title.partition(",")[0].replace("plain", "the plain")
                    yield Goal(f"{side} px: CPU, of {name}'s", key, limit, cpu / figures.cpu(rival, side))
    small = figures.sides[0]  # This is the side for which rates are measured.
    for key in ours:
        requests = [figures.classes(key, side) for side in figures.sides]
        yield Goal("S3 PUT-class requests", key, PUTS[key], max(each["put"] for each in requests))
        yield Goal("SQS requests, at saturation", key, SQS, max(each["sqs"] for each in requests))
        phase = at(min(RATES))
        if waits := figures.waits(key, small, phase):
            limit = TIMES * median(figures.own_times(key, small, phase)) + MORE
            yield Goal(f"{small} px, {phase}: p50, ms", key, 1000 * limit, 1000 * median(waits))
