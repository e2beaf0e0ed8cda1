"""Two small web servers: one serves covers, one receives postbacks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

from pipeline.local.demo.jobs import Arrivals
from pipeline.local.demo.samples import Sample


@contextmanager
def cover_server(samples: Mapping[str, Sample]) -> Iterator[str]:
    """Serve the samples by file name, and 404 for other paths; yield the URL, which ends in a slash."""

    class Covers(_Handler):
        def do_GET(self) -> None:
            sample = samples.get(self.path.lstrip("/"))
            if sample is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", sample.content_type)
            self.send_header("Content-Length", str(len(sample.data)))
            self.end_headers()
            self.wfile.write(sample.data)

    with _serving(Covers) as url:
        yield url


@contextmanager
def postback_server(secret: str, signing_secret: str, arrivals: Arrivals) -> Iterator[str]:
    """Check the secret and the signature of every postback, as a receiver does, and add it; yield the URL."""
    webhook = Webhook(signing_secret)

    class Postbacks(_Handler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            result, complaints = json.loads(body), []
            if result.get("postback_secret_key") != secret:
                complaints.append("its postback has a wrong secret")
            try:
                webhook.verify(body, dict(self.headers))
            except WebhookVerificationError:
                complaints.append("its postback has no valid signature")
            arrivals.add(self.headers.get("webhook-id", ""), result, *complaints)
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
