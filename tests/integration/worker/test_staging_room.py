"""Fetch pauses while its staging folder holds many covers, on the embedded SQS."""

from __future__ import annotations

from pathlib import Path

from pipeline.clients import lazy
from pipeline.events import Event, Outcome, subscribe, unsubscribe
from pipeline.monitoring.health import WorkerHealth
from tests.integration.conftest import worker_of
from tests.support.cover_host import cover_host
from tests.support.waiting import wait_for

THREADS, MOST, JOBS = 4, 6, 60


def test_a_backlog_does_not_fill_the_staging_folder(environment, monkeypatch, tmp_path) -> None:
    # Given a backlog of covers, and fetch without resize
    monkeypatch.setenv("STAGING_URL", f"file://{tmp_path}/staging/")
    monkeypatch.setenv("ALLOWED_NETWORKS", "127.0.0.0/8")
    monkeypatch.setattr("pipeline.worker.staging_room.MAX_COVERS", MOST)
    monkeypatch.setattr("pipeline.worker.staging_room.INTERVAL", 0.01)
    lazy.forget()
    from pipeline.actors import broker, fetch_image

    fetched: list[str] = []

    def count(event: Event) -> None:
        if event.stage == "fetch" and event.outcome is Outcome.DONE:
            fetched.append(event.job_id)

    subscribe(count)
    try:
        with cover_host() as host, worker_of("fetch", threads=THREADS) as worker:
            health = WorkerHealth(broker, worker)
            wait_for(lambda: not list(health.not_ready()))
            for number in range(JOBS):
                host.pictures[f"/{number}"] = number
                fetch_image.send({"image_url": host.url(f"/{number}"), "redirect_queue": "results"})
            # When it rests although messages wait
            wait_for(lambda: list(health.not_ready()) and not broker.in_hand.waiting_or_working)
            # Then it is not ready and gives the reason, and most of the covers are still at their host.
            count_of_files = len(staged(tmp_path))
            wait_for(lambda: list(health.not_ready()) == [f"fetch: paused, because {full(count_of_files)}"])
            assert MOST < count_of_files < JOBS / 2

            # When staged covers are taken, as they are after resize, then all others are fetched,
            def take() -> bool:
                for path in staged(tmp_path):
                    path.unlink()
                return len(fetched) == JOBS

            wait_for(take)
            # and fetch is ready again.
            wait_for(lambda: not list(health.not_ready()))
    finally:
        unsubscribe(count)


def full(files: int) -> str:
    return f"the staging folder holds {files} files younger than an hour"


def staged(folder: Path) -> list[Path]:
    return list(folder.glob("staging/*/" + 32 * "[0-9a-f]"))
