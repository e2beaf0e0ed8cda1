"""The hand-over from one stage to the next: a worker in this process, on the embedded SQS and S3."""

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
    """Serve a cover; yields its URL and the list of requests for it."""
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
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/cover.jpg", requests
    server.shutdown()
    server.server_close()


def test_a_failed_hand_over_is_retried_without_repeating_the_work(environment, fetched, monkeypatch) -> None:
    # Given a worker of fetch, and an SQS that refuses its first two sends to resize
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
        # When a job arrives
        fetch_image.send({"image_url": url, "postback_url": url})
        # Then resize receives it, the source was fetched once, and staging has one object
        resize = broker.queues.url("resize")
        wait_for(lambda: depth(resize) == 1)
        assert (left, requests) == ([], ["/cover.jpg"])
        staged = aws.s3().list_objects_v2(Bucket=environment["S3_BUCKET"], Prefix="pipeline-staging/")
        assert staged["KeyCount"] == 1


def depth(url: str) -> int:
    name = "ApproximateNumberOfMessages"
    return int(aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])
