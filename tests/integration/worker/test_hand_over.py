"""From one stage to the next: a worker in this process, on the embedded SQS and S3."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from PIL import Image

from pipeline.clients import aws, lazy
from tests.integration.conftest import worker_of
from tests.support.waiting import wait_for


@pytest.fixture
def fetched() -> Iterator[tuple[str, list[str]]]:
    """The URL of a cover, and the requests that were made for it."""
    requests: list[str] = []
    cover = BytesIO()
    Image.new("RGB", (60, 60), "red").save(cover, "JPEG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(cover.getvalue())

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/cover.jpg", requests
    server.shutdown()
    server.server_close()


def test_a_hand_over_that_fails_is_tried_again_and_the_work_is_not(environment, fetched, monkeypatch) -> None:
    # Given a worker of fetch, and SQS that does not take what it sends to resize, twice
    url, requests = fetched
    monkeypatch.setenv("ALLOWED_NETWORKS", "127.0.0.0/8")
    lazy.forget()
    from pipeline.actors import broker, fetch_image

    left = [1, 2]

    def refuse(model: Any, params: Any, **_: Any) -> None:
        if model.name == "SendMessageBatch" and b"resize_image" in params["body"] and left:
            left.pop()
            raise EndpointConnectionError(endpoint_url="http://down")

    aws.sqs().meta.events.register("before-call.sqs", refuse)
    with worker_of("fetch"):
        # When a job comes
        fetch_image.send({"image_url": url, "postback_url": url})
        # Then resize has it in the end, the source was asked once, and nothing waits in vain in staging
        resize = broker.queue_url("resize")
        wait_for(lambda: depth(resize) == 1)
        assert (left, requests) == ([], ["/cover.jpg"])
        staged = aws.s3().list_objects_v2(Bucket=environment["S3_BUCKET"], Prefix="pipeline-staging/")
        assert staged["KeyCount"] == 1


def depth(url: str) -> int:
    name = "ApproximateNumberOfMessages"
    return int(aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])
