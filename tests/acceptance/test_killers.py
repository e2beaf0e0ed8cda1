"""A poison message that kills every worker, among harmless messages."""

from __future__ import annotations

from pathlib import Path

from pipeline import send_message
from pipeline.local.embedded import EmbeddedStack
from tests.acceptance.conftest import PROCFILE, STAGES_ALONE, World, running_service
from tests.acceptance.test_service import picture, unique, wait_for_post
from tests.support.waiting import wait_for


def test_a_job_that_kills_its_workers_fails_with_a_result_and_all_others_succeed(
    acceptance_stack: EmbeddedStack, world: World, tmp_path: Path
) -> None:
    # Given resize workers that a certain source kills
    root = PROCFILE.parent
    lines = (
        PROCFILE.read_text()
        .replace("dramatiq pipeline.actors --threads 4", "dramatiq pipeline.actors --processes 1 --threads 4")
        .replace("dramatiq pipeline.actors", "dramatiq pipeline.actors tests.support.killing")
    )
    assert "killing" in lines
    procfile = tmp_path / "Procfile"
    procfile.write_text(lines)
    killer, hook = unique("/killer"), unique("/hook")
    with running_service(acceptance_stack, procfile, STAGES_ALONE, PYTHONPATH=str(root)) as service:
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
