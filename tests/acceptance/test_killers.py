"""A poison message that kills every worker, among harmless messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import send_message
from pipeline.local.embedded import EmbeddedStack
from tests.acceptance.conftest import STAGES_ALONE, World, procfile_with, running_service
from tests.acceptance.test_service import picture, unique, wait_for_post
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unmeasured


def test_a_job_that_kills_its_workers_fails_with_a_result_and_all_others_succeed(
    acceptance_stack: EmbeddedStack, world: World, tmp_path: Path
) -> None:
    # Given resize workers that a certain source kills
    modules = dict.fromkeys(["resize", "quarantine"], "brief_leases killing")
    procfile = procfile_with(tmp_path, merged=["fetch", "upload", "notify"], modules=modules)
    killer, hook = unique("/killer"), unique("/hook")
    concurrency = STAGES_ALONE | {"quarantine": 1}
    with running_service(acceptance_stack, procfile, concurrency) as service:
        # When that source is sent among twenty others
        send_message(
            {"image_url": world.serve(unique("/kills.jpg"), picture("JPEG")), "postback_url": world.url(killer)}
        )
        for n in range(20):
            cover = picture("JPEG", (100 + n, 100))
            send_message({"image_url": world.serve(unique(), cover), "postback_url": world.url(hook)})
        # Then its producer gets a failure, after several workers died,
        post = wait_for_post(world, killer, timeout=200)
        assert post.body["image_url_info"] is None
        error = post.body["image_url_error"]
        assert (error["stage"], error["code"]) == ("resize", "worker_crashed")
        # (a killed worker's open long poll may receive it once more)
        assert 3 <= service.log.count("exited unexpectedly") <= 5
        assert "It moves to quarantine" in service.log
        # it is one dead letter with its reason,
        (letter,) = wait_for(lambda: service.dead_letters("resize_dlq"))
        assert (letter["attributes"]["error_code"], letter["attributes"]["stage"]) == ("worker_crashed", "resize")
        # and all the others succeeded once.
        wait_for(lambda: len({post.headers["webhook-id"] for post in world.posted(hook)}) == 20, timeout=100)
        assert all(post.body["image_url_info"] for post in world.posted(hook))
        assert not service.dead_letters("resize_dlq")
