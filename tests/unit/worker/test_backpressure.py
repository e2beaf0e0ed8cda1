"""Backpressure: how many covers a fetch process stages ahead of resize."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import events
from pipeline.events import Event, Outcome
from pipeline.job import Content, Job, Source, Sweep
from pipeline.payload import IMAGE_FIELDS
from pipeline.recipe import Recipe
from pipeline.settings import Settings
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.in_hand import LaneQueue
from pipeline.sqs.wire import MAX_BATCH
from pipeline.stages import FETCH, RESIZE
from pipeline.storage import staging as staging_module
from pipeline.storage.staging import LocalStaging
from pipeline.worker.backpressure import LONGEST_WAIT, LOOK_STEP, Backpressure, StagedAhead
from tests.support.scripted_sqs import MovedClock

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


def test_old_covers_hold_no_others_back(ahead, folder, clock) -> None:
    # Given a lane that is held back by covers that resize does not take
    stage(ahead, folder, LIMIT)
    ahead.step()
    # When they have waited too long, then the lane is free.
    clock.now += LONGEST_WAIT - 0.1
    assert ahead.step() == LOOK_STEP
    clock.now += 0.1
    assert ahead.step() is None
    assert ahead.starts == [inf, inf]


def test_what_does_not_wait_for_resize_does_not_count(ahead, folder) -> None:
    # Given giants, failed and published covers, other stages, attempts that failed, and messages without a job
    stage(ahead, folder, LIMIT, giant=True)
    job = a_job()
    published = job.with_sources({source.url: source.published(CONTENT) for source in job.sources})
    for _ in range(LIMIT):
        ahead(done(published))
        ahead(done(fetched(a_job(), folder), stage="resize"))
        ahead(done(fetched(a_job(), folder), outcome=Outcome.RETRY))
        ahead(Event("fetch", "job", Outcome.DONE))
    assert ahead.step() is None
    # Then nothing is held back, and neither by a source that an earlier attempt has staged.
    stage(ahead, folder, LIMIT - 1)
    ahead(replace(done(fetched(a_job(), folder)), worked_on=()))
    assert ahead.step() is None
    assert ahead.starts == [inf, inf]


def test_each_source_of_a_job_counts(ahead, folder) -> None:
    for _ in range(LIMIT // 2):
        ahead(done(fetched(a_job(urls=2), folder)))
    ahead.step()
    assert ahead.starts == [0, inf]


@pytest.fixture
def middleware() -> Iterator[Backpressure]:
    found = Backpressure()
    yield found
    found.after_worker_shutdown(None, SimpleNamespace())


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
    middleware, broker, monkeypatch, tmp_path, *, staging: str, kind: str, queues: set[str] | None, expected: bool
) -> None:
    # Given a worker with some queues and staging
    url = f"file://{tmp_path}/not/yet/there/" if staging == "file" else "s3://bucket/prefix/"
    monkeypatch.setenv("STAGING_URL", url)
    monkeypatch.setattr(staging_module, "_file_system", lambda _: kind)
    worker = SimpleNamespace(consumer_whitelist=queues, worker_threads=4)
    before = len(events._subscribers)
    # When it boots, then it looks at the covers that it stages only where that is possible and useful,
    middleware.before_worker_boot(broker, worker)
    assert (len(events._subscribers) > before) is expected
    # and no more after its end.
    middleware.after_worker_shutdown(broker, worker)
    assert len(events._subscribers) == before


@pytest.fixture
def broker() -> SQSBroker:
    broker = SQSBroker("test", lambda: None)
    in_hand = broker.in_hand
    in_hand.work_queue = LaneQueue(lambda queue: queue.endswith("bulk"), in_hand.wake, in_hand.stopping)
    return broker


def test_the_file_system_of_a_folder_is_known(tmp_path) -> None:
    kinds = {line.split(" - ")[1].split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    assert staging_module._file_system(tmp_path) in kinds
    assert staging_module._file_system(Path("/proc")) == "proc"
