"""Renditions whose names end in a format, through all stages: workers in this process, on the embedded SQS and S3."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image

from pipeline.clients import aws, lazy
from tests.integration.conftest import worker_of
from tests.support.pictures import BLUE, GREEN, RED, YELLOW, assert_quarters, corners, encoded
from tests.support.untrusted_servers import always, answer, remote
from tests.support.waiting import wait_for

PLAIN = ("50x50", "250X250", "800x800")
NAMED = {
    "800x800.webp": ("image/webp", "WEBP"),
    "800x800.avif": ("image/avif", "AVIF"),
    "800x800.jpeg": ("image/jpeg", "JPEG"),
    "800x800.png": ("image/png", "PNG"),
}


def result_of(url: str) -> dict[str, Any]:
    """Return the result of a job for one cover."""
    from pipeline.actors import fetch_image

    queue = aws.sqs().create_queue(QueueName="results")["QueueUrl"]
    fetch_image.send({"image_url": url, "bucket_name": "Test", "redirect_queue": "results"})
    (received,) = wait_for(lambda: aws.sqs().receive_message(QueueUrl=queue).get("Messages"))
    aws.sqs().delete_message(QueueUrl=queue, ReceiptHandle=received["ReceiptHandle"])
    return json.loads(received["Body"])["image_url_info"]


def stored(bucket: str, rendition: dict[str, str]) -> tuple[str, str, bytes]:
    """Return the key, the content type and the bytes of a rendition."""
    key = rendition["url"].partition(f"/{bucket}/")[2]
    found = aws.s3().get_object(Bucket=bucket, Key=key)
    return key, found["ContentType"], found["Body"].read()


def test_named_formats_stand_beside_the_others(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = environment["S3_BUCKET"]
    monkeypatch.setenv("ALLOWED_NETWORKS", "127.0.0.0/8")
    lazy.forget()
    host = remote(always(answer(200, encoded(corners(1600, 1200), "JPEG", quality=90))))
    with host as server, worker_of("fetch", "resize", "upload", "notify"):
        # Given a cover that was rendered without formats
        without = result_of(server.url())
        # When formats are added
        monkeypatch.setenv("RENDITIONS", ",".join((*PLAIN, *NAMED)))
        lazy.forget()
        result = result_of(server.url())
    # Then the result names them all, each with a key that ends in its format once
    assert list(result) == [*PLAIN, *NAMED]
    for name, (content_type, writer) in NAMED.items():
        key, found_type, data = stored(bucket, result[name])
        assert key.startswith("images-resized/TEST/")
        assert key.endswith(f"_{name}")
        picture = Image.open(io.BytesIO(data))
        assert (found_type, picture.format, picture.size) == (content_type, writer, (800, 800))
        assert_quarters(picture, RED, GREEN, BLUE, YELLOW, tolerance=12)
    # And the others are byte for byte as they were
    assert [stored(bucket, result[name])[1:] for name in PLAIN] == [stored(bucket, without[name])[1:] for name in PLAIN]
