"""Jobs recover from failures between the stages."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import send_message
from pipeline.clients import aws
from pipeline.images.content_id import content_id
from pipeline.job import Content, Job, Rendered
from pipeline.local.embedded import EmbeddedStack
from pipeline.recipe import Recipe
from pipeline.settings import get_settings
from pipeline.sqs.queues import VISIBILITY_TIMEOUT
from pipeline.storage.publish import publish
from pipeline.worker.proof import signed
from tests.acceptance.conftest import STAGES_ALONE, Service, World, procfile_with, running_service
from tests.acceptance.test_service import picture, unique, wait_for_post
from tests.support.waiting import wait_for

GONE = "0" * 32


@pytest.fixture(scope="module")
def stalled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that exists once the source that stalls has stalled."""
    return tmp_path_factory.mktemp("stalling") / "stalled"


@pytest.fixture(scope="module")
def service(
    acceptance_stack: EmbeddedStack, stalled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The four stages, with short leases, so that others soon receive the messages of a killed process."""
    modules = {"fetch": "brief_leases", "resize": "stalling brief_leases", "work": "brief_leases"}
    procfile = procfile_with(tmp_path_factory.mktemp("procfile"), merged=["upload", "notify"], modules=modules)
    with running_service(acceptance_stack, procfile, STAGES_ALONE, STALLED=str(stalled)) as service:
        yield service


def send_job(service: Service, stage: str, actor: str, job: Any, *, age: float = 0) -> str:
    """Put a job on a stage's queue, as the previous stage does; returns the message id."""
    message = {
        "queue_name": stage,
        "actor_name": actor,
        "args": [],
        "kwargs": {"job": signed(job, get_settings().job_keys) if isinstance(job, dict) else job},
        "options": {},
        "message_id": secrets.token_hex(8),
        "message_timestamp": int((time.time() - age) * 1000),
    }
    url = service.queue_url(service.name(stage))
    aws.sqs().send_message(QueueUrl=url, MessageBody=json.dumps(message))
    return str(message["message_id"])


def job_at(world: World, hook: str, path: str) -> Job:
    payload = {"image_url": world.url(path), "bucket_name": secrets.token_hex(4), "postback_url": world.url(hook)}
    return Job.accept(payload, job_id=secrets.token_hex(8), settings=get_settings(), stage_payload=lambda _: "")


def content_of(cover: bytes) -> Content:
    recipe = Recipe(get_settings().renditions, get_settings().resize_fit)
    return Content(content_id(cover, recipe), ".jpeg", recipe)


@pytest.mark.parametrize(("stage", "actor"), [("resize", "resize_image"), ("upload", "upload_image")])
def test_a_job_whose_staged_bytes_are_missing_starts_again_at_fetch(
    service: Service, world: World, stage: str, actor: str
) -> None:
    # Given a job between two stages, and an empty staging
    hook, path = unique("/hook"), unique("/cover.jpg")
    cover = picture("JPEG")
    world.serve(path, cover)
    job = job_at(world, hook, path)
    source = job.sources[0].fetched(GONE, content_of(cover))
    if stage == "upload":
        source = source.resized(Rendered(GONE, {"50x50": 1}))
    # When its stage receives it, then it still succeeds.
    send_job(service, stage, actor, job.with_sources({source.url: source}).encode())
    post = wait_for_post(world, hook)
    assert post.body["image_url_info"]["800x800"]["url"]
    assert post.headers["webhook-id"] == job.id
    assert world.fetches.count(path) == 1


def test_a_job_whose_staged_bytes_are_missing_continues_if_its_renditions_are_published(
    service: Service, world: World
) -> None:
    hook, path = unique("/hook"), unique("/cover.jpg")
    job = job_at(world, hook, path)
    content = content_of(b"whatever it was")
    publish(job.folder, content, dict.fromkeys(content.renditions, b"x"))
    source = job.sources[0].fetched(GONE, content)
    send_job(service, "resize", "resize_image", job.with_sources({source.url: source}).encode())
    assert content.id in wait_for_post(world, hook).body["image_url_info"]["50x50"]["url"]
    assert path not in world.fetches


def test_a_job_fails_if_its_staged_bytes_are_missing_twice(service: Service, world: World) -> None:
    hook, path = unique("/hook"), unique("/cover.jpg")
    job = job_at(world, hook, path)
    source = job.sources[0].back_at_fetch().fetched(GONE, content_of(b"x"))
    send_job(service, "resize", "resize_image", job.with_sources({source.url: source}).encode())
    error = wait_for_post(world, hook).body["image_url_error"]
    assert (error["stage"], error["code"]) == ("resize", "staged_missing")
    letter = service.dead_letter_of(job.id, "resize_dlq")
    assert letter["attributes"]["error_code"] == "staged_missing"


def test_a_job_of_a_newer_version_is_left_to_a_newer_worker(service: Service, world: World) -> None:
    # Given a job that a newer release sent
    job = {**job_at(world, unique("/hook"), unique()).encode(), "v": 99, "news": True}
    message_id = send_job(service, "resize", "resize_image", job)
    # When a worker of this release receives it, then it waits unchanged for a newer worker and is not a dead letter.
    wait_for(lambda: service.counts("resize") == (0, 0, 1))
    assert f"resize_image[{message_id}]" in service.log
    assert not [each for each in service.dead_letters("resize_dlq") if message_id in each["body"]]
    aws.sqs().purge_queue(QueueUrl=service.queue_url(service.name("resize")))
    # If no worker accepts it within SQS's retention period, it becomes a dead letter.
    aged_id = send_job(service, "resize", "resize_image", job, age=15 * 86400)
    letter = service.dead_letter_of(aged_id, "resize_dlq")
    assert letter["attributes"]["error_code"] == "unknown_version"


def test_a_dead_letter_sent_again_reports_with_its_own_id(service: Service, world: World) -> None:
    # Given a job that failed because its source was missing
    hook, path = unique("/hook"), unique("/later.jpg")
    send_message({"image_url": world.url(path), "postback_url": world.url(hook)})
    failed = wait_for_post(world, hook)
    letter = service.dead_letter_of(path, "fetch_dlq")
    # When the source exists, and an operator puts the unchanged letter back on the queue
    world.serve(path, picture("JPEG"))
    aws.sqs().send_message(QueueUrl=service.queue_url(service.name("fetch")), MessageBody=letter["body"])
    # Then the success has another id, so receivers do not ignore it as a repeat of the failure.
    succeeded = wait_for_post(world, hook, count=2)
    assert failed.body["image_url_error"]["code"] == "http_404"
    assert succeeded.body["image_url_info"]["50x50"]["url"]
    assert succeeded.headers["webhook-id"] == failed.headers["webhook-id"] + ".r1"


@pytest.mark.parametrize("job", [None, 3, {}, {"v": 1}, {"v": 1, "id": "x", "folder": "F", "sources": [{"url": 1}]}])
def test_an_invalid_job_is_a_dead_letter_with_its_reason(service: Service, job: Any) -> None:
    message_id = send_job(service, "upload", "upload_image", job)
    letter = service.dead_letter_of(message_id, "upload_dlq")
    assert letter["attributes"]["error_code"] in {"bad_job", "not_an_object"}
    wait_for(lambda: service.counts("upload") == (0, 0, 0))


def test_a_rejected_payload_of_send_is_a_dead_letter_of_fetch(service: Service) -> None:
    letter = service.dead_letter_of(service.send({"image_url": "N/A"}), "fetch_dlq")
    assert (letter["attributes"]["error_code"], letter["attributes"]["stage"]) == ("no_image", "fetch")
    assert json.loads(letter["body"])["args"] == [{"image_url": "N/A"}]


def test_a_killed_workers_job_is_completed_by_another_worker(service: Service, world: World) -> None:
    # Given a job in progress in a fetch worker, whose source does not answer
    hook = unique("/hook")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/cover.jpg"
        send_message({"image_url": url, "postback_url": world.url(hook)})
        asked, _ = silent.accept()
        # When the worker's process group is killed, and the source answers the next worker
        os.killpg(service.supervisor.pid("fetch.1"), signal.SIGKILL)
        asked.close()
        silent.settimeout(100)
        again, _ = silent.accept()
        cover = picture("JPEG")
        again.recv(65536)
        again.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(cover) + cover)
        again.close()
    # Then the job succeeds, with one postback.
    assert wait_for_post(world, hook).body["image_url_info"]["50x50"]["url"]
    assert len(world.posted(hook)) == 1


def test_a_job_whose_worker_is_killed_during_resize_is_taken_over_and_goes_on_from_there(
    service: Service, world: World, stalled: Path
) -> None:
    # Given a job during its resize
    hook, path = unique("/hook"), unique("/stalls.jpg")
    cover = world.serve(path, picture("JPEG", (360, 240)))  # rendered only here
    send_message({"image_url": cover, "postback_url": world.url(hook)})
    wait_for(stalled.exists)
    # When its worker's process group is killed, and another worker starts
    os.killpg(service.supervisor.pid("resize.1") or 0, signal.SIGKILL)
    # Then the outcome is posted once, after the time for which messages are hidden, which is well within a minute.
    assert wait_for_post(world, hook).body["image_url_info"]["50x50"]["url"]
    wait_for(lambda: service.counts("notify") == (0, 0, 0))
    assert len(world.posted(hook)) == 1
    assert world.fetches.count(path) == 1
    assert VISIBILITY_TIMEOUT <= 45
