"""A server between the service and the embedded SQS and S3 that refuses some requests as AWS does."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

#: Headers of one connection, which are not forwarded.
HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}


@dataclass(frozen=True)
class Request:
    """A received request: `action` is the API's name for SQS requests and the HTTP method for S3 requests."""

    action: str
    path: str  #: Includes the query.
    body: bytes
    headers: dict[str, str]

    @property
    def is_sqs(self) -> bool:
        return "x-amz-target" in self.headers

    @property
    def is_signed(self) -> bool:
        return "authorization" in self.headers

    @property
    def queue(self) -> str:
        """Return the name of the queue in an SQS request."""
        given = json.loads(self.body or b"{}")
        return str(given.get("QueueName") or given.get("QueueUrl", "").rpartition("/")[2])


@dataclass
class Refusal:
    """The answer to a refused request: a status, a code and extra `headers`."""

    status: int
    code: str
    message: str = "This request is refused."
    headers: dict[str, str] = field(default_factory=dict)

    def body(self, request: Request) -> bytes:
        if request.is_sqs:
            return json.dumps({"__type": f"com.amazonaws.sqs#{self.code}", "message": self.message}).encode()
        return f"<Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>".encode()


#: Decides whether to refuse a request; `bytes` are a whole answer with status 200.
Rule = Callable[[Request], Refusal | bytes | None]


@contextmanager
def refusing(endpoint: str, rule: Rule, *, date: str | None = None) -> Iterator[str]:
    """Yield the URL of a server that forwards everything to `endpoint` except the requests that `rule` refuses.

    Args:
        date: the time in each answer's `Date` header, if given.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            action = headers.get("x-amz-target", self.command).rpartition(".")[2]
            request = Request(action, self.path, body, headers)
            answer = rule(request)
            if isinstance(answer, Refusal):
                self.reply(answer.status, answer.headers, answer.body(request))
            elif answer is not None:
                self.reply(200, {"Content-Type": "application/xml"}, answer)
            else:
                self.reply(*passed_on(endpoint, self.command, request))

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if not (self.command == "HEAD" and "content-length" in map(str.lower, headers)):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return date or super().date_time_string(timestamp)

        def log_message(self, *_: Any) -> None:
            pass

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def passed_on(endpoint: str, method: str, request: Request) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(endpoint)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    try:
        kept = {name: value for name, value in request.headers.items() if name not in HOP}
        connection.request(method, request.path, request.body, kept)
        response = connection.getresponse()
        answered = {name: value for name, value in response.getheaders() if name.lower() not in HOP}
        return response.status, answered, response.read()
    finally:
        connection.close()
