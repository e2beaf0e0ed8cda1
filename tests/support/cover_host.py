"""A host of covers on loopback that answers conditional requests, and can misbehave."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from tests.support.pictures import encoded

#: A Last-Modified long ago.
OLD = "Wed, 01 Jan 2020 00:00:00 GMT"


def picture(number: int) -> bytes:
    """Make a small PNG that no other number gives."""
    return encoded(Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, number // 65536)), "PNG")


@dataclass
class Asked:
    """One request, and the status it got."""

    path: str
    headers: dict[str, str]
    status: int = 0

    @property
    def is_conditional(self) -> bool:
        return "If-None-Match" in self.headers or "If-Modified-Since" in self.headers


@dataclass
class CoverHost:
    """The host. `pictures` are its covers by path; a number stands for `picture(number)`.

    Attributes:
        headers: returns the validators, and what else an answer has, of a cover.
        answer: returns a status instead of the cover's, or None.
        redirects: targets by path.
        sent: bytes of bodies.
    """

    port: int = 0
    pictures: dict[str, int] = field(default_factory=dict)
    headers: Callable[[str, int], dict[str, str]] = lambda _, number: {"ETag": f'"{number}"'}
    answer: Callable[[Asked], int | None] = lambda _: None
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    sent: int = 0

    def url(self, path: str = "/1") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def add(self, *numbers: int) -> list[str]:
        """Add covers whose paths and pictures are these numbers; returns their URLs."""
        self.pictures |= {f"/{number}": number for number in numbers}
        return [self.url(f"/{number}") for number in numbers]

    def statuses(self) -> list[int]:
        """Return the statuses since the last call."""
        found = [each.status for each in self.asked]
        self.asked.clear()
        return found

    def times_asked(self) -> Counter[str]:
        return Counter(each.path for each in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host: CoverHost

    def do_GET(self) -> None:
        host, asked = self.host, Asked(self.path, dict(self.headers))
        host.asked.append(asked)
        if target := host.redirects.get(self.path):
            self._send(asked, 302, {"Location": target})
            return
        number = host.pictures.get(self.path)
        headers = {} if number is None else host.headers(self.path, number)
        asked.status = 404 if number is None else 304 if _matches(asked, headers) else 200
        status = host.answer(asked) or asked.status
        self._send(asked, status, headers, picture(number or 0) if status == 200 else b"")

    def _send(self, asked: Asked, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        asked.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.host.sent += len(body)

    def log_message(self, *_: Any) -> None: ...


def _matches(asked: Asked, headers: dict[str, str]) -> bool:
    if etag := asked.headers.get("If-None-Match"):
        return headers.get("ETag", "").removeprefix("W/") == etag.removeprefix("W/")
    return headers.get("Last-Modified") == asked.headers.get("If-Modified-Since", "")


@contextmanager
def cover_host() -> Iterator[CoverHost]:
    """Serve until the end of the context."""
    host = CoverHost()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"host": host}))
    server.daemon_threads = True
    host.port = server.server_port
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
