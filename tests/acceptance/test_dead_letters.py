"""`image-pipeline dead redrive` sends failed jobs through the running service again."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator

import pytest
from PIL import Image

from pipeline.local.embedded import EmbeddedStack
from tests.acceptance.conftest import STAGES_ALONE, Service, World, procfile_with, running_service
from tests.acceptance.test_service import picture, unique, wait_for_post
from tests.chaos.proxy import Act, Proxy, Trouble
from tests.support.pictures import encoded
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unmeasured


@pytest.fixture(scope="module")
def proxy(acceptance_stack: EmbeddedStack) -> Iterator[Proxy]:
    """A proxy in front of S3."""
    with Proxy(acceptance_stack.environ["AWS_ENDPOINT_URL"], random.Random(1)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def without_retries(
    acceptance_stack: EmbeddedStack, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service without retries. (The sources of these tests answer 404, which is never retried.)

    A fetch stage without retries would be patient with every source, and so hold few threads for them.
    """
    more = {"RETRY_DELAYS": ",", "POSTBACK_RETRY_DELAYS": ","}
    with running_service(
        acceptance_stack,
        procfile_with(tmp_path_factory.mktemp("procfile"), merged=["fetch", "resize", "upload", "notify"]),
        STAGES_ALONE | {"ingest": 0},
        AWS_ENDPOINT_URL_S3=proxy.url,
        RENDITIONS="50x50",
        FETCH_MAX_PER_HOST="64",  # a job never waits for others: one folder has half of it, and there are 16 threads
        **more,
    ) as service:
        yield service


def dead(*arguments: str, status: int = 0) -> str:
    """Run `image-pipeline dead` in its own process and return its output."""
    command = [sys.executable, "-m", "pipeline", "dead", *arguments]
    done = subprocess.run(
        command, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(400)
def test_failed_uploads_are_redriven_without_a_request_to_their_sources(
    without_retries: Service, world: World, proxy: Proxy
) -> None:
    number = 60
    from pipeline.actors import broker, fetch_image

    # Given jobs whose renditions the bucket rejects
    hook = unique("/hook")
    covers = [world.serve(unique("/cover.png"), encoded(Image.new("RGB", (60, 60), n), "PNG")) for n in range(number)]
    broker.queues.namespace = without_retries.environ["QUEUE_NAMESPACE"]
    with proxy.trouble(Trouble(Act.FORBID, {"PUT"}, path="/images-resized/")):
        payloads = [{"image_url": url, "bucket_name": "Redriven", "postback_url": world.url(hook)} for url in covers]
        first, *others = [fetch_image.message(payload) for payload in payloads]
        broker.enqueue(first)
        wait_for_post(world, hook)  # the host is known to be quick now, so no job waits for the answer of another
        assert not any(broker.enqueue_many(others))
        wait_for(lambda: len(world.posted(hook)) >= number, timeout=300)
        wait_for(lambda: without_retries.counts("upload") == (0, 0, 0))
    failed = {post.headers["webhook-id"]: post.body for post in world.posted(hook)}
    assert len(failed) == number
    assert {(e["stage"], e["code"]) for e in (body["image_url_error"] for body in failed.values())} == {
        ("upload", "s3_error")
    }
    assert without_retries.counts("upload_dlq") == (number, 0, 0)
    fetches = len(world.fetches)

    # When the bucket accepts them again, and the jobs are redriven
    shown = dead("redrive", "--stage", "upload", "--rate", "200", "--yes")

    # Then each has a second outcome, a success with its own id,
    assert re.search(rf"upload +s3_error +{number:,} +Could not store", shown)
    assert f"Redrove {number:,} dead letters in" in shown
    wait_for(lambda: len(world.posted(hook)) >= 2 * number, timeout=300)
    good = {post.headers["webhook-id"]: post.body for post in world.posted(hook)[number:]}
    assert set(good) == {f"{job_id}.r1" for job_id in failed}
    for job_id, before in failed.items():
        after = good[f"{job_id}.r1"]
        assert after["image_url"] == before["image_url"]
        assert after["image_url_info"]["50x50"]["url"]
        assert "image_url_error" not in after
    assert len({body["image_url_info"]["50x50"]["url"] for body in good.values()}) == number

    # no source was requested again, and no letter, message or staged object is left.
    assert len(world.fetches) == fetches
    queues = ("upload_dlq", "upload", "notify_dlq", "fetch_dlq")
    wait_for(lambda: all(without_retries.counts(queue) == (0, 0, 0) for queue in queues))
    wait_for(lambda: without_retries.staged() == 0)


def test_each_letter_of_a_job_is_redriven_with_its_own_id_and_both_images(
    without_retries: Service, world: World, proxy: Proxy
) -> None:
    # Given a job with a missing image, an image that cannot be stored, and a receiver that rejects everything
    hook, lost, stored = unique("/hook"), unique("/lost.jpg"), unique("/stored.jpg")
    world.serve(stored, picture("JPEG", (61, 61)))
    world.answers[hook] = [410]
    job = {"image_url": world.url(lost), "itunes_image": world.url(stored), "postback_url": world.url(hook)}
    with proxy.trouble(Trouble(Act.FORBID, {"PUT"}, path="/images-resized/")):
        job_id = without_retries.send(job)
        wait_for(lambda: without_retries.counts("notify_dlq") == (1, 0, 0))
    letters = [json.loads(line) for line in dead("list", "--json").splitlines()]
    assert {(letter["stage"], letter["code"], letter["report_id"]) for letter in letters} == {
        ("fetch", "http_404", f"{job_id}.r1"),
        ("upload", "s3_error", f"{job_id}.r2"),
        ("notify", "http_410", f"{job_id}.r3"),
    }
    fetched = world.fetches.count(stored)

    # When the bucket accepts it, and the failed upload is redriven,
    dead("redrive", "--stage", "upload", "--host", "127.0.0.1", "--yes")
    # then its result has the current state of both images,
    body = wait_for_post(world, hook, count=2).body
    assert body["image_url_error"]["code"] == "http_404"
    assert body["itunes_image_info"]["50x50"]["url"]
    # and when the missing image is back, and its letter is redriven, the result has both.
    world.serve(lost, picture("JPEG", (62, 62)))
    dead("redrive", job_id[:12], "--code", "http_404", "--yes")
    post = wait_for_post(world, hook, count=3)
    assert post.body["image_url_info"]["50x50"]["url"]
    assert post.body["itunes_image_info"] == body["itunes_image_info"]
    assert [each.headers["webhook-id"] for each in world.posted(hook)] == [job_id, f"{job_id}.r2", f"{job_id}.r1"]
    assert world.fetches.count(stored) == fetched

    # The failed delivery can still be redriven; it sends the first result.
    dead("redrive", "--stage", "notify", "--yes")
    assert wait_for_post(world, hook, count=4).body["itunes_image_error"]["code"] == "s3_error"
    assert "No dead letters were found." in dead("list")
    wait_for(lambda: without_retries.staged() == 0)


def test_a_job_that_is_redriven_too_early_is_a_letter_again(without_retries: Service, world: World) -> None:
    hook, path = unique("/hook"), f"/{secrets.token_hex(4)}/not-yet.jpg"
    without_retries.send({"image_url": world.url(path), "postback_url": world.url(hook)})
    wait_for(lambda: without_retries.counts("fetch_dlq") == (1, 0, 0))
    for _ in range(2):
        assert "Redrove 1 dead letter in" in dead("redrive", "--stage", "fetch", "--yes")
        wait_for(lambda: without_retries.counts("fetch_dlq") == (1, 0, 0))
    world.serve(path, picture("JPEG", (63, 63)))
    dead("redrive", "--stage", "fetch", "--yes")
    posts = wait_for(lambda: (found := world.posted(hook)) and len(found) >= 4 and found)
    assert [post.headers["webhook-id"].partition(".")[2] for post in posts] == ["", "r1", "r2", "r3"]
    assert posts[-1].body["image_url_info"]["50x50"]["url"]
