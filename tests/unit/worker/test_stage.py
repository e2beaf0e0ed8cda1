"""The work of a stage on a job: its sources, in parallel, under one time limit."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pipeline.errors import PipelineError
from pipeline.job import Content, Job, Source, Unfinished
from pipeline.recipe import Recipe, parse_rendition
from pipeline.settings import Settings
from pipeline.stages import FETCH, RESIZE
from pipeline.worker import stage, time_limit
from pipeline.worker.stage import advance
from pipeline.worker.time_limit import TimeLimit, _Watch
from tests.support.attempts import attempt_at

#: Seconds that an endless source works in these tests if nothing interrupts it.
ENDLESS = 20.0

CONTENT = Content("a" * 32, ".jpeg", Recipe((parse_rendition("50x50"),)))
A, B = "http://a.example/", "http://b.example/"


@pytest.fixture(autouse=True)
def watch(monkeypatch: pytest.MonkeyPatch) -> _Watch:
    monkeypatch.setattr(stage, "SHARE", 0.01)
    monkeypatch.setattr(time_limit, "INTERVAL", 0.005)
    monkeypatch.setattr(time_limit, "_watch", watch := _Watch())
    return watch


def job(*urls: str) -> Job:
    fields = dict(zip(("image_url", "itunes_image"), urls, strict=False))
    payload = {**fields, "redirect_queue": "results"}
    return Job.accept(payload, job_id="job-1", settings=Settings(), stage_payload=lambda _: "")


def work(**by_host: Callable[[], object]) -> Callable[[Job, Source], Source]:
    """Make the function of a stage, which does something for the sources of each host."""

    def work_on(_: Job, source: Source) -> Source:
        by_host[source.url.removeprefix("http://")[0]]()
        return source.fetched("key", CONTENT)

    return work_on


def hang() -> None:
    end = time.monotonic() + ENDLESS
    while time.monotonic() < end:
        time.sleep(0.001)


def errors_of(job: Job, work_on: Callable[[Job, Source], Source]) -> tuple[Job, dict[str, PipelineError]]:
    """Run the stage within a limit that is far above that of each of two sources: see `watch`."""
    attempt = attempt_at(job, deadline=time.monotonic() + (0.1 if len(job.sources) == 1 else 10))
    with pytest.raises(Unfinished) as raised, TimeLimit(attempt.seconds_left):
        advance(attempt, FETCH, work_on)
    ((after, errors),) = raised.value.parts
    return after, errors


@pytest.mark.parametrize("urls", [(A,), (A, B)])
def test_each_source_that_takes_too_long_is_interrupted(urls: tuple[str, ...]) -> None:
    # Given sources that take far longer than their stage may
    _, errors = errors_of(job(*urls), work(a=hang, b=hang))
    # Then all are interrupted, and end with an error of their own.
    assert {url: error.code for url, error in errors.items()} == dict.fromkeys(urls, "time_limit")


def test_a_source_that_takes_too_long_does_not_cost_the_other() -> None:
    after, errors = errors_of(job(A, B), work(a=hang, b=lambda: None))
    assert [*errors] == [A]
    assert {source.url: source.due for source in after.sources} == {A: FETCH.name, B: RESIZE.name}


def test_nothing_is_left_to_strike_after_the_work(watch: _Watch) -> None:
    with TimeLimit(60):
        advance(attempt_at(job(A, B), deadline=time.monotonic() + 60), FETCH, work(a=lambda: None, b=lambda: None))
    assert watch._deadlines == {}
