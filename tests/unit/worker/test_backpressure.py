"""Backpressure: how many covers a fetch process stages ahead of resize."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import events
from pipeline.errors import PermanentError
from pipeline.events import Event, Outcome
from pipeline.job import Content, Job, Source, Sweep
from pipeline.metrics import HELD_BACK
from pipeline.payload import IMAGE_FIELDS
from pipeline.recipe import Recipe
from pipeline.settings import Settings
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.in_hand import LaneQueue
from pipeline.sqs.wire import MAX_BATCH
from pipeline.stages import FETCH, RESIZE
from pipeline.storage import staging as staging_module
from pipeline.storage.staging import LocalStaging
from pipeline.worker.backpressure import AHEAD, LONGEST_WAIT, LOOK_STEP, Backpressure, StagedAhead
from tests.support.scripted_sqs import MovedClock
from tests.support.waiting import wait_for

LIMIT = 40
CONTENT = Content("c" * 32, ".jpeg", Recipe.decode({"renditions": ["8x8"], "fit": "cover"}))


class Ahead(StagedAhead):
    """The covers of a process. `starts` is how many messages of each lane, live and bulk, may start."""

    def __init__(self, folder: LocalStaging, clock: MovedClock) -> None:
        super().__init__(folder, self.let_start, lambda *, bulk: self.busy[bulk], LIMIT, clock.monotonic)
        self.starts: list[float] = [inf, inf]
        self.busy = [0, 0]

    def let_start(self, count: float, *, bulk: bool) -> None:
        self.starts[bulk] = count


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def folder(tmp_path: Path) -> LocalStaging:
    return LocalStaging(tmp_path)


@pytest.fixture
def ahead(folder: LocalStaging, clock: MovedClock) -> Ahead:
    return Ahead(folder, clock)


def a_job(*, bulk: bool = False, urls: int = 1) -> Job:
    images = dict(zip(IMAGE_FIELDS, (f"http://h/{number}" for number in range(urls)), strict=False))
    if bulk:
        job = Job.of_sweep(Sweep("channels", "run", "cover"), job_id="job", folder="f", urls=images)
    else:
        payload = images | {"redirect_queue": "results"}
        job = Job.accept(payload, job_id="job", settings=Settings(), stage_payload=lambda _: "")
    return replace(job, ticket=secrets.token_hex(8))


def fetched(job: Job, folder: LocalStaging, *, giant: bool = False) -> Job:
    def staged(source: Source) -> Source:
        return source.fetched(folder.put(b"cover", job.staged_key(FETCH, source, CONTENT)), CONTENT, giant=giant)

    return job.with_sources({source.url: staged(source) for source in job.sources})


def done(job: Job, *, stage: str = "fetch", outcome: Outcome = Outcome.DONE) -> Event:
    return Event(stage, job.id, outcome, job=job, worked_on=tuple(source.url for source in job.sources))


def stage(ahead: Ahead, folder: LocalStaging, count: int, *, bulk: bool = False, giant: bool = False) -> list[Job]:
    """Let fetch end so many jobs with a cover each."""
    jobs = [fetched(a_job(bulk=bulk), folder, giant=giant) for _ in range(count)]
    for job in jobs:
        ahead(done(job))
    return jobs


def render(jobs: list[Job], folder: LocalStaging) -> None:
    for job in jobs:
        folder.put(b"renditions", job.staged_key(RESIZE, job.sources[0], CONTENT))


def test_a_lane_is_held_back_when_as_many_covers_wait_as_may(ahead, folder) -> None:
    # Given one cover less, then nothing is held back, and nobody has to look.
    called: list[str] = []
    ahead.on_full = lambda: called.append("full")
    stage(ahead, folder, LIMIT - 1)
    assert ahead.step() is None
    assert (ahead.starts, called) == ([inf, inf], [])
    # When one more is staged, then no job of this lane starts.
    stage(ahead, folder, 1)
    assert called == ["full"]
    assert ahead.step() == LOOK_STEP
    assert ahead.starts == [0, inf]


def test_covers_of_bulk_jobs_hold_back_bulk_jobs_alone(ahead, folder) -> None:
    stage(ahead, folder, LIMIT, bulk=True)
    ahead.step()
    assert ahead.starts == [inf, 0]


@pytest.mark.parametrize("ended", ["rendered", "deleted"])
def test_jobs_start_as_covers_are_rendered_or_deleted_in_batches(ahead, folder, ended: str) -> None:
    # Given a lane that is held back
    jobs = stage(ahead, folder, LIMIT)
    ahead.step()

    def end(some: list[Job]) -> None:
        if ended == "rendered":
            render(some, folder)
        else:
            folder.delete([job.sources[0].original for job in some])

    # When less than a batch of covers is taken, then no job starts yet.
    end(jobs[: MAX_BATCH - 1])
    assert ahead.step() == LOOK_STEP
    assert ahead.starts == [0, inf]
    # When it is a batch, then as many jobs start.
    end(jobs[MAX_BATCH - 1 : MAX_BATCH + 2])
    assert ahead.step() == LOOK_STEP
    assert ahead.starts == [MAX_BATCH + 2, inf]
    # When less than half of the covers are left, then the lane is free.
    end(jobs[: LIMIT // 2 + 1])
    assert ahead.step() is None
    assert ahead.starts == [inf, inf]


def test_jobs_in_progress_count_as_covers(ahead, folder) -> None:
    jobs = stage(ahead, folder, LIMIT)
    ahead.step()
    render(jobs[: MAX_BATCH + 5], folder)
    ahead.busy = [3, 30]
    ahead.step()
    assert ahead.starts == [MAX_BATCH + 2, inf]


def test_covers_hold_no_others_back_while_resize_is_down(ahead, folder, clock) -> None:
    # Given a lane that is held back, and a cover that was rendered
    jobs = stage(ahead, folder, LIMIT + 1)
    render(jobs[:1], folder)
    ahead.step()
    # When no other was rendered for too long, then the lane is free.
    clock.now += LONGEST_WAIT - 0.1
    assert ahead.step() == LOOK_STEP
    clock.now += 0.1
    assert ahead.step() is None
    assert ahead.starts == [inf, inf]


def test_covers_go_on_to_count_while_resize_is_slow(ahead, folder, clock) -> None:
    # Given a lane that is held back
    jobs = stage(ahead, folder, LIMIT)
    ahead.step()
    # When one cover after the other is rendered, although slowly, then the others count, however old they are.
    for job in jobs[: LIMIT // 2]:
        clock.now += LONGEST_WAIT / 2
        render([job], folder)
        assert ahead.step() == LOOK_STEP
    assert ahead.starts == [LIMIT // 2, inf]


def test_covers_that_were_overtaken_hold_no_others_back(ahead, folder, clock) -> None:
    # Given covers whose jobs wait for a retry, and later ones, the first of which is rendered
    stage(ahead, folder, LIMIT // 2)
    clock.now += LONGEST_WAIT - 0.1
    jobs = stage(ahead, folder, LIMIT // 2)
    ahead.step()
    render(jobs[:1], folder)
    clock.now += 1
    ahead.step()
    assert ahead.starts == [0, inf]
    # When one is rendered that was staged much later, then the first ones hold no others back.
    render(stage(ahead, folder, 1), folder)
    assert ahead.step() is None
    assert ahead.starts == [inf, inf]


def test_what_does_not_wait_for_resize_does_not_count(ahead, folder) -> None:
    # Given giants, published covers, other stages, jobs that are fetched again, and messages without a job
    stage(ahead, folder, LIMIT, giant=True)
    job = a_job()
    published = job.with_sources({source.url: source.published(CONTENT) for source in job.sources})
    for _ in range(LIMIT):
        ahead(done(published))
        ahead(done(fetched(a_job(), folder), stage="resize"))
        ahead(done(half_fetched(folder), outcome=Outcome.RETRY))
        ahead(Event("fetch", "job", Outcome.DONE))
    # Then nothing is held back.
    assert ahead.step() is None
    stage(ahead, folder, LIMIT - 1)
    assert ahead.step() is None
    assert ahead.starts == [inf, inf]


def half_fetched(folder: LocalStaging) -> Job:
    """Return a job of two sources whose first is staged, and whose second is still due in fetch."""
    job = a_job(urls=2)
    return job.with_sources({job.sources[0].url: fetched(job, folder).sources[0]})


def test_both_sources_count_if_the_second_was_fetched_by_a_later_attempt(ahead, folder) -> None:
    for _ in range(LIMIT // 2):
        first = half_fetched(folder)
        ahead(done(first, outcome=Outcome.RETRY))
        ahead(replace(done(fetched(first, folder)), worked_on=(first.sources[1].url,)))
    ahead.step()
    assert ahead.starts == [0, inf]


def test_the_cover_of_a_job_counts_whose_other_source_failed_for_good(ahead, folder) -> None:
    for _ in range(LIMIT):
        job = half_fetched(folder)
        failed = job.with_errors(FETCH, {job.sources[1].url: PermanentError("http_404", "It is gone.")})
        ahead(replace(done(failed, outcome=Outcome.GIVEN_UP), worked_on=(job.sources[1].url,)))
    ahead.step()
    assert ahead.starts == [0, inf]


def test_each_source_of_a_job_counts(ahead, folder) -> None:
    for _ in range(LIMIT // 2):
        ahead(done(fetched(a_job(urls=2), folder)))
    ahead.step()
    assert ahead.starts == [0, inf]


@pytest.fixture
def broker() -> SQSBroker:
    broker = SQSBroker("test", lambda: None)
    in_hand = broker.in_hand
    in_hand.work_queue = LaneQueue(lambda queue: queue.endswith("bulk"), in_hand.wake, in_hand.stopping)
    return broker


@contextmanager
def booted(broker: SQSBroker, queues: set[str] | None, threads: int = 4) -> Iterator[StagedAhead | None]:
    """Boot a worker, and yield what counts its covers, if anything does."""
    before, middleware = set(events._subscribers), Backpressure()
    worker: Any = SimpleNamespace(consumer_whitelist=queues, worker_threads=threads)
    middleware.before_worker_boot(broker, worker)
    try:
        (found,) = set(events._subscribers) - before or {None}
        assert found is None or isinstance(found, StagedAhead)
        yield found
    finally:
        middleware.after_worker_shutdown(broker, worker)
        assert set(events._subscribers) == before


@pytest.mark.usefixtures("no_variables")
@pytest.mark.parametrize(
    ("staging", "kind", "queues", "expected"),
    [
        ("file", "ext4", {"fetch", "fetch_bulk"}, True),
        ("file", "ext4", {"fetch"}, True),
        ("file", "nfs4", {"fetch", "fetch_bulk"}, False),
        ("file", "", {"fetch", "fetch_bulk"}, False),
        ("file", "ext4", {"fetch", "resize"}, False),
        ("file", "ext4", {"resize"}, False),
        ("file", "ext4", None, False),
        ("s3", "ext4", {"fetch", "fetch_bulk"}, False),
    ],
)
def test_it_applies_to_processes_of_fetch_alone_with_a_folder_of_this_host(
    broker, monkeypatch, tmp_path, *, staging: str, kind: str, queues: set[str] | None, expected: bool
) -> None:
    url = f"file://{tmp_path}/not/yet/there/" if staging == "file" else "s3://bucket/prefix/"
    monkeypatch.setenv("STAGING_URL", url)
    monkeypatch.setattr(staging_module, "_file_system", lambda _: kind)
    with booted(broker, queues) as ahead:
        assert bool(ahead) is expected


@pytest.mark.usefixtures("no_variables")
@pytest.mark.parametrize(("threads", "limit"), [(4, AHEAD), (AHEAD + 10, AHEAD + 10)])
def test_a_process_holds_itself_back(broker, folder, monkeypatch, tmp_path, *, threads: int, limit: int) -> None:
    # Given a process of fetch that has staged one cover less than it may
    monkeypatch.setenv("STAGING_URL", f"file://{tmp_path}")
    HELD_BACK.labels("live").set(0)
    lanes = broker.in_hand.work_queue
    lanes.put(SimpleNamespace(message=SimpleNamespace(queue_name="fetch")))
    with booted(broker, {"fetch"}, threads) as ahead, ThreadPoolExecutor(1) as pool:
        jobs = stage(ahead, folder, limit - 1)
        assert lanes.may_receive(bulk=False)
        # When it stages another one, then it starts no other job,
        jobs += stage(ahead, folder, 1)
        wait_for(HELD_BACK.labels("live")._value.get)
        taken = pool.submit(lanes.get)
        wait_for(lambda: lanes.not_empty.__dict__["_waiters"])
        # until covers are rendered.
        render(jobs, folder)
        assert taken.result(10)
        wait_for(lambda: not HELD_BACK.labels("live")._value.get())
    wait_for(lambda: "backpressure" not in {thread.name for thread in threading.enumerate()})


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="only Linux tells the file system of a folder")
def test_the_file_system_of_a_folder_is_known() -> None:
    assert [staging_module._file_system(Path(each)) for each in ("/sys", "/dev/shm", "/proc")] == [
        "sysfs",
        "tmpfs",
        "proc",
    ]
    assert staging_module._file_system(Path("/not/there")) == ""


@pytest.mark.parametrize(("kind", "expected"), [("xfs", True), ("overlay", True), ("nfs4", False), ("", False)])
def test_a_folder_is_on_this_host_if_its_file_system_is(folder, monkeypatch, tmp_path, *, kind, expected) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(staging_module, "_file_system", lambda path: asked.append(path) or kind)
    assert folder.is_on_this_host() is expected
    assert LocalStaging(tmp_path / "not" / "there").is_on_this_host() is expected
    assert asked == [tmp_path, tmp_path]
