"""How `make bench` combines and judges its measurements, which docs/performance.md relies on."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[3] / "benchmarks" / name) for name in ("end_to_end", "images")]

import emulator
import report
from figures import Figures, growth

SENT = [each / 10 for each in range(100)]  # Ten jobs per second.


def phase(rate: float, waits: list[float], sqs: float) -> dict[str, Any]:
    """Build a phase in its stored form: a job takes 36 ms of CPU and three objects."""
    requests = {"sqs SendMessage": sqs, "s3 PutObject": 3.0}
    sent = SENT[: len(waits)]
    figures = {"sent": sent, "waits": waits, "own": [0.05] * len(waits), "cpu": {"resize": 36.0}, "memory": 10**8}
    return {"jobs": len(waits), "rate": rate, "requests": requests, **figures}


def results(*contenders: tuple[str, dict[str, Any]], side: int = 1400) -> Figures:
    """Build rounds of contenders with these phases, with rendering of 30 ms, and 40 by sharp."""
    rendering = {"what": "rendering", "side": side, "alone": 30.0, "on all cores": 31.0}
    measured = [{"what": key, "side": side, "round": 0, "phases": phases} for key, phases in contenders]
    sharp = {"what": "sharp", "side": side, "cpu": 40.0}
    return Figures([{"delay": [10, 20], **each} for each in (rendering, sharp, *measured)])


class TestRates:
    @pytest.mark.parametrize(
        ("waits", "expected"),
        [
            pytest.param([0.3] * 100, 0.0, id="constant"),
            pytest.param([0.3 + 0.25 * each for each in SENT], 0.25, id="four fifths of the rate are done"),
            pytest.param([0.3] * 95 + [45.0] * 5, 0.0, id="few received a second time"),
            pytest.param([0.3], 0.0, id="a single job"),
        ],
    )
    def test_growth_is_the_increase_of_waiting_time_per_second(self, waits: list[float], expected: float) -> None:
        # given jobs sent ten times per second, when the last third is compared with the first
        found = growth(SENT[: len(waits)], waits)
        # then the growth of the backlog shows, and single late jobs do not
        assert found == pytest.approx(expected)

    def test_a_contender_that_cannot_keep_up_has_no_figures_for_that_rate(self) -> None:
        # given three contenders: the first keeps up, the second has growing waiting times, the third skipped the rate
        burst = phase(62.0, [1.0] * 100, 2.0)
        figures = results(
            ("file", {"saturation": burst, "10/s": phase(10.0, [0.25] * 100, 8.0)}),
            ("celery", {"saturation": burst, "10/s": phase(8.2, [0.1 + 0.2 * each for each in SENT], 9.0)}),
            ("plain", {"saturation": burst}),
        )
        # when the tables of waiting and of cost are made
        waits, cost = (table(figures).splitlines()[2:] for table in (report.waits_table, report.cost_table))
        # then only the first has figures: p50, p95 and p99; requests and dollars
        assert waits[0] == "| **this project, file://** | 250, 250, 250 | 62.0 |"
        assert cost[0] == "| **this project, file://** | 8.0, 18.60 | 2.0, 16.20 |"
        # and the others fall behind
        assert [line.split(" | ")[1] for line in (*waits[1:], *cost[1:])] == ["falls behind"] * 4


class TestPromises:
    def test_a_promise_that_is_not_kept_is_marked(self) -> None:
        # given a service that renders within its promise and takes too many requests
        figures = results(("file", {"saturation": phase(62.0, [1.0] * 10, 4.0)}), side=3000)
        # when the table of promises is made
        lines = report.goals_table(figures).splitlines()
        # then each promise has its measurement and its limit, and the broken one is marked
        assert "| 3000 px: CPU of rendering alone, of sharp's | 0.75 | 1.00 |  |  | yes |" in lines
        assert "| SQS requests, at saturation | 4.00 | 3.50 |  |  | **no** |" in lines


class TestDelays:
    @pytest.mark.parametrize(
        ("headers", "query", "expected"),
        [
            pytest.param({b"x-amz-target": b"AmazonSQS.SendMessage"}, b"", [0.01], id="sqs, as JSON"),
            pytest.param({b"content-type": b"application/x-www-form-urlencoded"}, b"", [0.01], id="sqs, as a form"),
            pytest.param({}, b"Action=ReceiveMessage", [0.01], id="sqs, as a query"),
            pytest.param({b"content-type": b"image/jpeg"}, b"", [0.02], id="s3"),
            pytest.param({b"user-agent": b"Boto3/1 app/bench", b"x-amz-target": b"AmazonSQS.A"}, b"", [], id="our own"),
        ],
    )
    def test_each_service_has_its_delay_and_producers_have_none(
        self, monkeypatch: pytest.MonkeyPatch, headers: dict[bytes, bytes], query: bytes, expected: list[float]
    ) -> None:
        # given an emulator whose SQS takes 10 ms and whose S3 takes 20, and a clock that does not wait
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        async def application(*_: Any) -> None: ...

        monkeypatch.setattr(emulator.asyncio, "sleep", sleep)
        counting = emulator.Counting(application, emulator.Wakes(asyncio), {"sqs": 0.01, "s3": 0.02})
        # when a request arrives
        scope = {"type": "http", "method": "POST", "path": "/x/y", "query_string": query, "headers": headers.items()}
        with ThreadPoolExecutor(1) as pool:  # in this thread, the browser of another test may have its event loop
            pool.submit(asyncio.run, counting(scope, None, None)).result()
        # then it waits for its service and is counted, unless a producer of the benchmark sent it
        assert slept == expected
        assert Counter(counting._requests).total() == len(expected)
