"""Results with details (contract, section 4): workers in this process, on the embedded SQS and S3."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from pipeline.clients import aws, lazy
from pipeline.images import sandbox
from pipeline.ops.schema import document
from pipeline.storage.publish import FACTS
from tests.integration.conftest import worker_of
from tests.support.pictures import corners, encoded
from tests.support.untrusted_servers import always, answer, remote
from tests.support.waiting import wait_for

NAMES = ("50x50", "100X60", "100x60.webp", "60x60.avif")
COVER = encoded(corners(1500, 1200).convert("RGBA"), "PNG")
GONE = "http://127.0.0.1:1/gone.png"


class Jobs:
    """Sends jobs for one cover and receives their results."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._queue = aws.sqs().create_queue(QueueName="results")["QueueUrl"]

    def run(self, **more: Any) -> dict[str, Any]:
        """Return the result of one job."""
        from pipeline.actors import fetch_image

        message = {"image_url": self.url, "bucket_name": "Show", "redirect_queue": "results"}
        fetch_image.send(message | more)
        (received,) = wait_for(lambda: aws.sqs().receive_message(QueueUrl=self._queue).get("Messages"))
        aws.sqs().delete_message(QueueUrl=self._queue, ReceiptHandle=received["ReceiptHandle"])
        return json.loads(received["Body"])


@pytest.fixture
def jobs(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """The stages, with threads enough for two new hosts at a time, and a host that sends a PNG as a JPEG."""
    monkeypatch.setenv("RENDITIONS", ",".join(NAMES))
    monkeypatch.setenv("ALLOWED_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("FETCH_RETRY_DELAYS", ",")
    lazy.forget()
    host = remote(always(answer(200, COVER, "Content-Type: image/jpeg")))
    with host as server, worker_of("fetch", "resize", "upload", "notify", threads=16):
        yield Jobs(server.url())


def turn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESULT_DETAILS", "on")
    lazy.forget()


def objects(environment: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the published objects by key: their bytes, headers and metadata."""
    bucket = environment["S3_BUCKET"]
    listed = aws.s3().list_objects_v2(Bucket=bucket, Prefix="images-resized/").get("Contents", [])
    found = {each["Key"]: aws.s3().get_object(Bucket=bucket, Key=each["Key"]) for each in listed}
    return {
        key: {"data": each["Body"].read(), "type": each["ContentType"], "metadata": each["Metadata"]}
        for key, each in found.items()
    }


@contextmanager
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail every rendering inside the context."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("rendered")

    with monkeypatch.context() as patch:
        patch.setattr(sandbox._Sandbox, "render", fail)
        yield


def test_a_result_without_the_variable_is_as_ever(jobs: Jobs, environment: dict[str, str]) -> None:
    # A producer's own field of that name is carried through, as any other
    result = jobs.run(image_url_source="mine")
    assert set(result) == {"image_url", "bucket_name", "redirect_queue", "image_url_info", "image_url_source"}
    assert result["image_url_source"] == "mine"
    assert list(result["image_url_info"]) == list(NAMES)
    assert all(set(each) == {"url", "bucket_path"} for each in result["image_url_info"].values())
    assert {json.dumps(each["metadata"]) for each in objects(environment).values()} == {"{}"}


def test_a_result_with_details_describes_objects_and_source(
    jobs: Jobs, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    turn_on(monkeypatch)
    # When a cover is rendered
    result = jobs.run(image_url_source="mine")
    # Then the details of each rendition are those of its object
    stored = objects(environment)
    assert list(result["image_url_info"]) == list(NAMES)
    for rendition in result["image_url_info"].values():
        (found,) = [each for key, each in stored.items() if rendition["url"].endswith(f"/{key}")]
        image = Image.open(io.BytesIO(found["data"]))
        assert (rendition["width"], rendition["height"]) == image.size
        assert (rendition["bytes"], rendition["content_type"]) == (len(found["data"]), found["type"])
    # And those of the source are its own
    source = result["image_url_source"]
    assert source | {"thumbhash": "", "color": ""} == {
        "width": 1500,
        "height": 1200,
        "bytes": len(COVER),
        "format": "png",
        "sha256": hashlib.sha256(COVER).hexdigest(),
        "color": "",
        "thumbhash": "",
        "warnings": ["not_square", "below_1400", "has_alpha", "wrong_content_type"],
    }
    # And the whole is as the schema describes it
    assert not list(Draft202012Validator(document("result")).iter_errors(result))


def test_objects_from_before_the_variable_get_their_facts_once(
    jobs: Jobs, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a cover that was stored without details
    jobs.run()
    before = objects(environment)
    # When details are on, then the same bytes are stored again under the same keys, with the facts
    turn_on(monkeypatch)
    detailed = jobs.run()
    after = objects(environment)
    assert {key: each["data"] for key, each in after.items()} == {key: each["data"] for key, each in before.items()}
    assert all(FACTS in each["metadata"] for each in after.values())
    # And the next repeat renders nothing
    with no_rendering(monkeypatch):
        assert jobs.run() == detailed


def test_a_failed_image_has_no_details(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    turn_on(monkeypatch)
    result = jobs.run(itunes_image=GONE)
    assert "image_url_source" in result
    assert (result["itunes_image_info"], "itunes_image_source" in result) == (None, False)
    assert result["itunes_image_error"]["stage"] == "fetch"


def test_plain_names_of_any_source_are_jpeg_or_png_if_asked_for(
    jobs: Jobs, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given renditions in JPEG or PNG, one of them with a fit of its own
    monkeypatch.setenv("OUTPUT_FORMATS", "jpeg,png")
    monkeypatch.setenv("RENDITIONS", "50x50,90x40@blur,60x60.webp")
    turn_on(monkeypatch)
    clear = corners(64, 64).convert("RGBA")
    clear.paste((0, 0, 0, 0), (16, 16, 48, 48))
    for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO"):
        for picture in (corners(64, 64),) if name in ("JPEG", "BMP") else (corners(64, 64), clear):
            # When a source of each format is rendered
            cover = encoded(picture, name)
            with remote(always(answer(200, cover, f"Content-Type: {Image.MIME[name]}"))) as server:
                info = jobs.run(image_url=server.url())["image_url_info"]
            # Then names are the sizes alone, and keys, details, headers and bytes agree
            assert list(info) == ["50x50", "90x40", "60x60.webp"]
            output = "PNG" if picture is clear else "JPEG"
            stored = objects(environment)
            for each, expected in zip(info.values(), (output, output, "WEBP"), strict=True):
                (key,) = [key for key in stored if each["url"].endswith(f"/{key}")]
                image = Image.open(io.BytesIO(stored[key]["data"]))
                assert (image.format, Image.MIME[expected]) == (expected, each["content_type"]), name
                assert stored[key]["type"] == each["content_type"]
                assert key.endswith(f".{expected.lower()}")
                assert (each["width"], each["height"]) == image.size
