"""A retry that is due only after every process has restarted."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import send_message
from pipeline.local.embedded import EmbeddedStack
from tests.acceptance.conftest import STAGES_ALONE, World, procfile_with, running_service
from tests.acceptance.test_service import picture, unique, wait_for_post
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unmeasured


def test_a_retry_due_in_two_hours_survives_a_restart_of_every_process(
    acceptance_stack: EmbeddedStack, world: World, tmp_path: Path
) -> None:
    # Given workers whose clock the test moves, and a source that is down and will be retried in two hours
    clock = tmp_path / "clock"
    clock.write_text("0")
    stages = ["fetch", "resize", "upload", "notify"]
    procfile = procfile_with(tmp_path, merged=stages, modules={"work": "moving_clock brief_leases"})
    hook, path = unique("/hook"), unique("/down.jpg")
    world.serve(path, b"busy", status=503)
    settings = {"FETCH_RETRY_DELAYS": "7200", "CLOCK_FILE": str(clock)}
    with running_service(acceptance_stack, procfile, STAGES_ALONE, **settings) as service:
        send_message({"image_url": world.url(path), "postback_url": world.url(hook)})
        wait_for(lambda: "outcome=retry" in service.log)
        world.serve(path, picture("JPEG"))

        def restart_and_pass_a_job() -> None:
            service.supervisor.stop()
            service.supervisor.start()
            canary = unique("/canary")
            cover = world.serve(unique(), picture("JPEG", (64, 64)))
            service.send({"image_url": cover, "postback_url": world.url(canary)})
            wait_for_post(world, canary, timeout=90)

        # When every process restarts, and an hour and a half passes (the wait has 20 % jitter),
        restart_and_pass_a_job()
        clock.write_text("5400")
        restart_and_pass_a_job()
        # then the source was not requested again;
        wait_for(lambda: service.counts("fetch") == (0, 0, 1))
        assert world.fetches.count(path) == 1
        # and when the retry is due, the job succeeds.
        clock.write_text("8700")
        assert wait_for_post(world, hook).body["image_url_info"]["50x50"]["url"]
        assert world.fetches.count(path) == 2
