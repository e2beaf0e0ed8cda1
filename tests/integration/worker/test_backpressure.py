"""Fetch stays close to resize while covers wait in a folder of this host, on the embedded SQS and S3."""

from __future__ import annotations

from pathlib import Path

from pipeline.clients import lazy
from pipeline.events import Event, Outcome, subscribe, unsubscribe
from tests.integration.conftest import worker_of
from tests.support.cover_host import cover_host
from tests.support.waiting import wait_for

THREADS, AHEAD, JOBS = 4, 10, 60


def test_a_backlog_does_not_fill_the_staging_folder(environment, monkeypatch, tmp_path) -> None:
    # Given a backlog of covers, and fetch without resize
    monkeypatch.setenv("STAGING_URL", f"file://{tmp_path}/staging/")
    monkeypatch.setenv("ALLOWED_NETWORKS", "127.0.0.0/8")
    monkeypatch.setattr("pipeline.worker.backpressure.AHEAD", AHEAD)
    lazy.forget()
    from pipeline.actors import broker, fetch_image

    fetched: list[str] = []

    def count(event: Event) -> None:
        if event.stage == "fetch" and event.outcome is Outcome.DONE:
            fetched.append(event.job_id)

    subscribe(count)
    try:
        with cover_host() as host, worker_of("fetch", threads=THREADS):
            for number in range(JOBS):
                host.pictures[f"/{number}"] = number
                fetch_image.send({"image_url": host.url(f"/{number}"), "redirect_queue": "results"})
            # When its threads rest although messages wait
            in_hand = broker.in_hand
            wait_for(lambda: len(staged(tmp_path)) >= AHEAD)
            wait_for(lambda: in_hand.work_queue.live and not in_hand.in_progress(bulk=False))
            # Then most of the covers are still at their host.
            assert len(staged(tmp_path)) < JOBS / 2

            # When staged covers are taken, as they are after resize, then all others are fetched.
            def take() -> bool:
                for path in staged(tmp_path):
                    path.unlink()
                return len(fetched) == JOBS

            wait_for(take)
    finally:
        unsubscribe(count)


def staged(folder: Path) -> list[Path]:
    return list(folder.glob("staging/*/" + 32 * "[0-9a-f]"))
