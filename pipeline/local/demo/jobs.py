"""The jobs of the demo: payload, way in and expected outcome."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bson import ObjectId

from pipeline.clients import aws
from pipeline.job_ids import input_job_id
from pipeline.local.demo.samples import Sample
from pipeline.payload import IMAGE_FIELDS, Payload
from pipeline.producer import send_message


@dataclass(frozen=True)
class ExpectedFailure:
    """The expected failure of an image."""

    stage: str
    code: str
    about: str  #: the defect of the image


@dataclass(frozen=True)
class Arrival:
    """A received result."""

    result: Payload
    at: float
    complaints: tuple[str, ...]  #: problems of the delivery


class Arrivals:
    """The received results by job id; repeated results are ignored."""

    def __init__(self) -> None:
        self._by_job: dict[str, Arrival] = {}

    def add(self, job_id: str, result: Payload, *complaints: str) -> None:
        """Add a received result."""
        self._by_job.setdefault(job_id, Arrival(result, time.time(), complaints))

    def get(self, job_id: str) -> Arrival | None:
        """Return the result of a job, or None if it has not arrived."""
        return self._by_job.get(job_id)


@dataclass
class DemoJob:
    """One job: its payload, expected outcome and result."""

    name: str
    way: str  #: how it is sent
    folder: str  #: the expected folder for its `bucket_name`
    payload: Payload
    expected: dict[str, Sample | ExpectedFailure]  #: by field of the payload
    job_id: str = ""
    sent_at: float = 0.0
    arrival: Arrival | None = None

    @property
    def seconds(self) -> float | None:
        """Seconds from sending to the result."""
        return self.arrival.at - self.sent_at if self.arrival else None

    @property
    def infos(self) -> dict[str, Any]:
        """The `…_info` of its result by field of the payload; None if it is missing."""
        return {name: self.arrival.result.get(f"{name}_info") if self.arrival else None for name in IMAGE_FIELDS}


SEND_MESSAGE, RAW, ACTOR, COMMAND = "send_message", "raw JSON", "fetch_image.send", "submit --wait"


def make_jobs(samples: Mapping[str, Sample], covers_url: str, postback_url: str, redirect_queue: str) -> list[DemoJob]:
    """Make the jobs, without sending them."""

    def job(name: str, way: str, to: Payload, **images: str | tuple[str, ExpectedFailure]) -> DemoJob:
        """Make a job; `images` has file names by field, with an expected failure if they should fail."""
        payload: Payload = {}
        expected: dict[str, Sample | ExpectedFailure] = {}
        for image_field, image in images.items():
            file, outcome = image if isinstance(image, tuple) else (image, samples[image])
            payload[image_field] = covers_url + file
            expected[image_field] = outcome
        return DemoJob(name, way, name.upper().replace(" ", "_"), payload | {"bucket_name": name} | to, expected)

    post, redirect = {"postback_url": postback_url}, {"redirect_queue": redirect_queue}
    # Like a payload of an existing system: both images, an id, and fields that the service does not use.
    theirs = post | {
        "_id": str(ObjectId()),
        "bucket_name": "Mundo Cristão",
        "episode": {"number": 12, "tags": ["a", None]},
    }
    both = job("Two Images", RAW, theirs, image_url="pixel-tales.gif", itunes_image="marginalia.jpg")
    both.folder = "MUNDO_CRISTAO"
    return [
        job("Night Train", SEND_MESSAGE, post, image_url="night-train.jpg"),
        job("Paper Boats", ACTOR, post, image_url="paper-boats.png"),
        both,
        job("Slow Coffee", COMMAND, {}, image_url="slow-coffee.webp"),
        job("High Ground", SEND_MESSAGE, redirect, itunes_image="high-ground.jpg"),
        job("Nowhere", RAW, post, image_url=("nowhere.jpg", ExpectedFailure("fetch", "http_404", "not there"))),
        job(
            "Cut Short",
            ACTOR,
            post,
            image_url=("cut-short.jpg", ExpectedFailure("resize", "broken_image", "truncated JPEG")),
        ),
    ]


def send(job: DemoJob, queue_url: str) -> None:
    """Send a job by its way in, except for the command, which `submit` runs."""
    job.sent_at = time.time()
    if job.way == SEND_MESSAGE:
        job.job_id = send_message(job.payload)
    elif job.way == ACTOR:
        from pipeline.actors import fetch_image  # noqa: PLC0415 - builds the broker, which needs the settings of the stack

        job.job_id = fetch_image.send(job.payload).message_id
    else:
        sent = aws.sqs().send_message(
            QueueUrl=queue_url,
            MessageBody=json.dumps(job.payload),
            MessageGroupId=uuid.uuid4().hex,
            MessageDeduplicationId=uuid.uuid4().hex,
        )
        job.job_id = input_job_id(sent["MessageId"])


def submit(job: DemoJob, environ: Mapping[str, str], arrivals: Arrivals) -> None:
    """Send a job with `image-pipeline submit --wait --json`, and read its id and its result from the lines printed."""
    options = ["--folder", job.payload["bucket_name"], "--wait", "--timeout", "60", "--json"]
    command = [sys.executable, "-m", "pipeline", "submit", job.payload["image_url"], *options]
    job.sent_at = time.time()
    ran = subprocess.run(command, env=dict(environ), capture_output=True, text=True, check=False)  # noqa: S603
    try:
        sent, ended = map(json.loads, ran.stdout.splitlines())
    except ValueError:
        arrivals.add("", {}, f"submit printed: {ran.stdout} {ran.stderr}")
        return
    job.job_id = sent["job_id"]
    arrivals.add(job.job_id, ended["result"] or {})


def receive(url: str, until: threading.Event, arrivals: Arrivals) -> None:
    """Receive the results from the redirect queue until the event is set."""
    while not until.is_set():
        received = aws.sqs().receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1, MessageAttributeNames=["All"]
        )
        for message in received.get("Messages", []):
            attribute = message.get("MessageAttributes", {}).get("job_id")
            arrivals.add(attribute.get("StringValue", "") if attribute else "", json.loads(message["Body"]))
