"""A worker is killed while it renders."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pipeline import send_message
from pipeline.local.embedded import EmbeddedStack
from tests.acceptance.conftest import PROCFILE, STAGES_ALONE, World, procfile_with, running_service
from tests.acceptance.test_service import picture, unique, wait_for_post
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unmeasured


def test_a_job_whose_worker_is_killed_during_resize_ends_within_a_minute(
    acceptance_stack: EmbeddedStack, world: World, tmp_path: Path
) -> None:
    # Given a job during its resize
    stalled = tmp_path / "stalled"
    procfile = procfile_with(tmp_path, merged=["fetch", "upload", "notify"], modules={"resize": "stalling"})
    hook, path = unique("/hook"), unique("/stalls.jpg")
    cover = world.serve(path, picture("JPEG"))
    settings = {"STALLED": str(stalled), "PYTHONPATH": str(PROCFILE.parent)}
    with running_service(acceptance_stack, procfile, STAGES_ALONE, **settings) as service:
        send_message({"image_url": cover, "postback_url": world.url(hook)})
        wait_for(stalled.exists)
        # When its worker's process group is killed, and another worker starts
        os.killpg(service.supervisor.pid("resize.1") or 0, signal.SIGKILL)
        # Then the outcome is posted once, within a minute.
        assert wait_for_post(world, hook, timeout=60).body["image_url_info"]["50x50"]["url"]
        wait_for(lambda: service.counts("notify") == (0, 0, 0))
        assert len(world.posted(hook)) == 1
        assert world.fetches.count(path) == 1
