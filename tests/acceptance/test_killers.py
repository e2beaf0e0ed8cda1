"""A message that kills every worker that takes it, among others that do not."""

from __future__ import annotations

from pathlib import Path

from pipeline import send_message
from pipeline.local.embedded import EmbeddedStack
from tests.acceptance.conftest import PROCFILE, STAGES_ALONE, World, running_service
from tests.acceptance.test_service import picture, unique, wait_for_post
from tests.support.waiting import wait_for


def test_a_job_that_kills_its_workers_is_given_up_and_told_of_and_all_others_end_well(
    acceptance_stack: EmbeddedStack, world: World, tmp_path: Path
) -> None:
    # Given workers of resize that a certain source kills
    root = PROCFILE.parent
    lines = PROCFILE.read_text().replace(
        "dramatiq pipeline.actors --threads 4",
        "dramatiq pipeline.actors tests.support.killing --processes 1 --threads 4",
    )
    assert "killing" in lines
    procfile = tmp_path / "Procfile"
    procfile.write_text(lines)
    killer, hook = unique("/killer"), unique("/hook")
    with running_service(acceptance_stack, procfile, STAGES_ALONE, PYTHONPATH=str(root)) as service:
        # When it is sent among twenty others
        send_message(
            {"image_url": world.serve(unique("/kills.jpg"), picture("JPEG")), "postback_url": world.url(killer)}
        )
        for n in range(20):
            cover = picture("JPEG", (100 + n, 100))
            send_message({"image_url": world.serve(unique(), cover), "postback_url": world.url(hook)})
        # Then its producer hears that it was given up, after several workers died of it,
        post = wait_for_post(world, killer, timeout=200)
        assert post.body["image_url_info"] is None
        error = post.body["image_url_error"]
        assert (error["stage"], error["code"]) == ("resize", "worker_crashed")
        # (a long poll that a killed worker leaves behind may receive it once more in vain)
        assert 3 <= service.log.count("exited unexpectedly") <= 5
        assert "It runs alone" in service.log
        # it is a dead letter with its reason, once,
        (letter,) = wait_for(lambda: service.dead_letters("resize_dlq"))
        assert (letter["attributes"]["error_code"], letter["attributes"]["stage"]) == ("worker_crashed", "resize")
        # and all the others ended well, once.
        wait_for(lambda: len({post.headers["webhook-id"] for post in world.posted(hook)}) == 20, timeout=100)
        assert all(post.body["image_url_info"] for post in world.posted(hook))
        assert not service.dead_letters("resize_dlq")
