"""What the demo sends, by which way in, and what should come of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bson import ObjectId

from pipeline.clients import aws
from pipeline.job import input_job_id
from pipeline.local.demo.samples import Sample
from pipeline.local.supervisor import Child, command_line
from pipeline.payload import IMAGE_FIELDS, Payload
from pipeline.producer import send_message


@dataclass(frozen=True)
class Failure:
    """An image that should fail: in this stage, with this code."""

    stage: str
    code: str
    about: str  #: what is wrong with the image


@dataclass(frozen=True)
class Arrival:
    """How a result came in."""

    result: Payload
    at: float
    complaints: tuple[str, ...]  #: what was wrong with the way in which it came


class Arrivals:
    """The results that came in, by the ids of their jobs; of repeated ones the first."""

    def __init__(self) -> None:
        self._by_job: dict[str, Arrival] = {}

    def take(self, job_id: str, result: Payload, *complaints: str) -> None:
        """A result has come in."""
        self._by_job.setdefault(job_id, Arrival(result, time.time(), complaints))

    def get(self, job_id: str) -> Arrival | None:
        """The result of a job, if it has come in."""
        return self._by_job.get(job_id)


@dataclass
class DemoJob:
    """One job: what is sent, what should come of it, and what came."""

    name: str
    way: str  #: in
    folder: str  #: what its `bucket_name` should become
    payload: Payload
    expected: dict[str, Sample | Failure]  #: by the payload's field
    job_id: str = ""
    sent_at: float = 0.0
    arrival: Arrival | None = None

    @property
    def seconds(self) -> float | None:
        """From sending to the result."""
        return self.arrival.at - self.sent_at if self.arrival else None

    @property
    def infos(self) -> dict[str, Any]:
        """The `…_info` of its result, by the payload's field; None where there is none."""
        return {name: self.arrival.result.get(f"{name}_info") if self.arrival else None for name in IMAGE_FIELDS}


SEND_MESSAGE, RAW, ACTOR, COMMAND = "send_message", "raw JSON", "fetch_image.send", "submit --wait"


def make(samples: Mapping[str, Sample], covers_url: str, postback_url: str, redirect_queue: str) -> list[DemoJob]:
    """The jobs, none of them sent yet."""

    def job(name: str, way: str, to: Payload, **images: str | tuple[str, Failure]) -> DemoJob:
        """`images` are file names by payload field, beside a failure if that is what should come of them."""
        payload: Payload = {}
        expected: dict[str, Sample | Failure] = {}
        for image_field, image in images.items():
            file, outcome = image if isinstance(image, tuple) else (image, samples[image])
            payload[image_field] = covers_url + file
            expected[image_field] = outcome
        return DemoJob(name, way, name.upper().replace(" ", "_"), payload | {"bucket_name": name} | to, expected)

    post, redirect = {"postback_url": postback_url}, {"redirect_queue": redirect_queue}
    # As a system that has long been there sends them: both images, an id, and fields that are its own affair.
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
        job("Nowhere", RAW, post, image_url=("nowhere.jpg", Failure("fetch", "http_404", "not there"))),
        job("Cut Short", ACTOR, post, image_url=("cut-short.jpg", Failure("resize", "broken_image", "truncated JPEG"))),
    ]


def send(job: DemoJob, queue_url: str) -> None:
    """Send a job by its way in; `submit` is for the command."""
    job.sent_at = time.time()
    if job.way == SEND_MESSAGE:
        job.job_id = input_job_id(send_message(job.payload))
    elif job.way == ACTOR:
        from pipeline.actors import fetch_image  # noqa: PLC0415 - reads the settings, which the stack has changed

        job.job_id = fetch_image.send(job.payload).message_id
    else:
        sent = aws.sqs().send_message(
            QueueUrl=queue_url,
            MessageBody=json.dumps(job.payload),
            MessageGroupId=uuid.uuid4().hex,
            MessageDeduplicationId=uuid.uuid4().hex,
        )
        job.job_id = input_job_id(sent["MessageId"])


@contextmanager
def submit(job: DemoJob, environ: Mapping[str, str], arrivals: Arrivals) -> Iterator[None]:
    """Send a job by `image-pipeline submit --wait`, as a person would type it, but for --json."""
    options = ["--folder", job.payload["bucket_name"], "--wait", "--timeout", "60", "--json"]
    command = command_line(sys.executable, "-m", "pipeline", "submit", job.payload["image_url"], *options)
    job.sent_at = time.time()
    child = Child(command, environ=environ, cwd=Path.cwd(), output=subprocess.PIPE)
    reader = threading.Thread(target=_read, args=[job, child.output, arrivals], name="submit", daemon=True)
    reader.start()
    try:
        yield
    finally:
        child.stop()
        reader.join()


def _read(job: DemoJob, output: Iterable[str], arrivals: Arrivals) -> None:
    """Its first line tells the job's id, its second the result."""
    said: list[str] = []
    for line in output:
        try:
            told: Payload = json.loads(line)
        except ValueError:
            said.append(line.strip())
            continue
        job.job_id = told["job_id"] or job.job_id
        if told["status"] in {"done", "failed"}:
            arrivals.take(job.job_id, told["result"])
        elif told["status"] != "sent":
            said.append(line.strip())
    if said:
        arrivals.take(job.job_id, {}, f"submit said: {' '.join(said)}")


def receive(url: str, until: threading.Event, arrivals: Arrivals) -> None:
    """Take the results from the redirect queue."""
    while not until.is_set():
        received = aws.sqs().receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1, MessageAttributeNames=["All"]
        )
        for message in received.get("Messages", []):
            attribute = message.get("MessageAttributes", {}).get("job_id")
            arrivals.take(attribute.get("StringValue", "") if attribute else "", json.loads(message["Body"]))
