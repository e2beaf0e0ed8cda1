"""The outside world of a run: a source server and a postback receiver, both with faults."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Post:
    """An accepted postback."""

    webhook_id: str
    path: str
    raw: bytes
    at: float

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: Any) -> None:  # a client that was killed
        pass


class World:
    """Both servers, which run while the context is entered.

    Paths determine the behaviour. Sources: `/hangs/…` does not answer the first request, `/busy/…` answers 503 twice.
    Receivers: `/gone/…` answers 410. `/sulky/…` answers 500, then 302, and then accepts. `/late/…` accepts, but answers
    the first request too late.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}  #: by path
        self.posts: list[Post] = []
        self.mood = ""  #: mood of all receivers: "hangs up", "slow", "500", "302", "hangs"
        self.sources_mood = ""  #: mood of all sources: "503", "hang", "drip"
        self._mood_over = threading.Event()
        self._asked: Counter[str] = Counter()
        self._servers: list[_Server] = []

    def __enter__(self) -> World:
        for method in (self._get, self._post):
            server = _Server(("127.0.0.1", 0), _handler(method))
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def source(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self._servers[0].server_port}{path}"

    def receiver(self, path: str) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}{path}"

    @contextmanager
    def receivers(self, mood: str) -> Iterator[None]:
        """Put all receivers in a mood inside the context."""
        self.mood = mood
        self._mood_over.clear()
        try:
            yield
        finally:
            self.mood = ""
            self._mood_over.set()

    @contextmanager
    def sources(self, mood: str) -> Iterator[None]:
        """Put all sources in a mood inside the context."""
        self.sources_mood = mood
        self._mood_over.clear()
        try:
            yield
        finally:
            self.sources_mood = ""
            self._mood_over.set()

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        self._asked[path] += 1
        if self.sources_mood in {"hang", "drip"}:
            self._stall(handler, drips=self.sources_mood == "drip")
        elif self.sources_mood == "503" or (path.startswith("/busy/") and self._asked[path] <= 2):
            _answer(handler, 503)
        elif path.startswith("/hangs/") and self._asked[path] == 1:
            time.sleep(8)
        elif path in self.files:
            _answer(handler, 200, self.files[path])
        else:
            _answer(handler, 404)

    def _stall(self, handler: BaseHTTPRequestHandler, *, drips: bool = False) -> None:
        """Do not answer until the mood is over, or send a byte now and then, and close the connection."""
        handler.close_connection = True
        if drips:
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
        while not self._mood_over.wait(0.3):
            if drips:
                handler.wfile.write(b"x")

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers["Content-Length"]))
        path = urlsplit(handler.path).path
        self._asked[path] += 1
        if self.mood == "hangs up":
            handler.close_connection = True
            return
        if self.mood == "hangs":
            self._stall(handler)
            return
        if self.mood == "slow":
            time.sleep(1.5)
        if path.startswith("/gone/"):
            _answer(handler, 410)
        elif self.mood in {"500", "302"}:
            _answer(handler, int(self.mood))
        elif path.startswith("/sulky/") and self._asked[path] <= 2:
            _answer(handler, (500, 302)[self._asked[path] - 1])
        else:
            self.posts.append(Post(handler.headers["webhook-id"], path, raw, time.monotonic()))
            if path.startswith("/late/") and self._asked[path] == 1:
                time.sleep(8)
            _answer(handler, 204)


def _answer(handler: BaseHTTPRequestHandler, status: int, data: bytes = b"") -> None:
    handler.send_response(status)
    if status == 302:
        handler.send_header("Location", "/elsewhere")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def _handler(method: Any) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            method(self)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None: ...

    return Handler
