"""Two small web servers: one serves covers, one receives postbacks."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from pipeline.local.demo.samples import Sample


@dataclass(frozen=True)
class Postback:
    """One received postback."""

    webhook_id: str
    signature_is_valid: bool
    body: dict[str, Any]


@contextmanager
def cover_server(samples: Mapping[str, Sample]) -> Iterator[str]:
    """Serve the samples by file name, and 404 for other paths; yield the URL, which ends in a slash.

    Conditional requests are answered by what `samples` contains at that moment.
    """

    class Covers(_Handler):
        def do_GET(self) -> None:
            sample = samples.get(self.path.lstrip("/"))
            if sample is None:
                self.send_error(404)
                return
            etag = f'"{zlib.crc32(sample.data):08x}"'
            if self.headers.get("If-None-Match") == etag:
                self.send_response(304)
                self.send_header("ETag", etag)
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("ETag", etag)
            self.send_header("Content-Type", sample.content_type)
            self.send_header("Content-Length", str(len(sample.data)))
            self.end_headers()
            self.wfile.write(sample.data)

    with _serving(Covers) as url:
        yield url


@contextmanager
def postback_server(signing_secret: str, on_postback: Callable[[Postback], None]) -> Iterator[str]:
    """Call `on_postback` with every postback before the response; yield the URL."""
    webhook = Webhook(signing_secret)

    class Postbacks(_Handler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                webhook.verify(body, dict(self.headers))
                valid = True
            except WebhookVerificationError:
                valid = False
            on_postback(Postback(self.headers.get("webhook-id", ""), valid, json.loads(body)))
            self.send_response(204)
            self.end_headers()

    with _serving(Postbacks) as url:
        yield f"{url}postback"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing, because the table shows everything."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 64


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], name=handler.__name__, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
