"""The world of `bench-sweep`: channels, episodes and their covers, some of them bad, and the hosts that serve them."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

#: One cover in this many is bad.
BAD = 10

#: Number of hosts, each a port of its own: the settings limit the requests per host.
HOSTS = 40

#: Side of a cover in pixels; each half has one colour.
SIDE = 400

LONG_AGO, FAR_OFF = datetime(2001, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Flaw:
    """A way in which a cover is bad, and the error that must be written."""

    code: str
    stage: str = "fetch"
    given_up: bool = False  #: only after retries


FLAWS = {
    "gone": Flaw("http_404"),
    "page": Flaw("not_an_image"),
    "torn": Flaw("broken_image", stage="resize"),
    "empty": Flaw("empty"),
    "drawing": Flaw("unsupported_format"),
    "down": Flaw("http_503", given_up=True),
    "private": Flaw("blocked_address"),
    "no-url": Flaw("bad_url"),
}

#: Titles of channels, with the folder of each. Without a title or without a channel, the folder is `CUSTOM`.
TITLES: tuple[tuple[str | None, str], ...] = (
    ("Mundo Cristão {}", "MUNDO_CRISTAO_{}"),
    (" a/b ?c&d {}", "A--B_-C-D_{}"),
    ("北京 {}", "BEIJING_{}"),
    ("Plain {}", "PLAIN_{}"),
    (None, "CUSTOM"),
)

#: One channel in this many is missing although its episodes refer to it.
NO_CHANNEL = 50


def flaw_of(cover: int) -> str:
    """Return the name of a cover's flaw, or an empty string for a good cover."""
    return list(FLAWS)[cover // BAD % len(FLAWS)] if cover % BAD == 0 else ""


def colours(cover: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the colours of a cover's left and right half: no two covers have the same pair."""
    left = (20 + cover * 37 % 211, 20 + cover * 53 % 197, 20 + cover * 91 % 199)
    red, green, blue = left
    return left, (255 - blue, red, 255 - green)


def folder_of(channel: int) -> str:
    """Return the folder of a channel's episodes, from the list of titles."""
    if channel % NO_CHANNEL == 0:
        return "CUSTOM"
    return TITLES[channel % len(TITLES)][1].format(channel)


@dataclass
class World:
    """Serves the covers, and counts how often each was requested."""

    ports: list[int] = field(default_factory=list)
    fetched: Counter[int] = field(default_factory=Counter)

    def url(self, cover: int) -> str:
        """Return the URL of a cover in its episodes."""
        match flaw_of(cover):
            case "private":
                return f"http://10.9.8.7/{cover}.jpg"
            case "no-url":
                return f"cover {cover}"
        return f"http://127.0.0.1:{self.ports[cover % HOSTS]}/{cover}.jpg"

    def answer(self, cover: int) -> tuple[int, bytes]:
        """Return the status and the body of the host's answer."""
        self.fetched[cover] += 1
        answers: dict[str, Callable[[], tuple[int, bytes]]] = {
            "": lambda: (200, _picture(cover)),
            "gone": lambda: (404, b"not here"),
            "page": lambda: (200, b"<!DOCTYPE html><html><body>Our covers have moved.</body></html>"),
            "torn": lambda: (200, _picture(cover)[:-1500]),
            "empty": lambda: (200, b""),
            "drawing": lambda: (200, b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
            "down": lambda: (503, b"later"),
        }
        return answers[flaw_of(cover)]()


def _picture(cover: int) -> bytes:
    left, right = colours(cover)
    picture = Image.new("RGB", (SIDE, SIDE), right)
    picture.paste(left, (0, 0, SIDE // 2, SIDE))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90, comment=str(cover))  # No two covers have the same bytes.
    return out.getvalue()


@contextmanager
def serving() -> Iterator[World]:
    """Run the hosts of a world."""
    world = World()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, data = world.answer(int(self.path.strip("/").removesuffix(".jpg")))
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Ignore clients that hang up: they have read what they wanted."""

    servers = [Server(("127.0.0.1", 0), Handler) for _ in range(HOSTS)]
    for server in servers:
        world.ports.append(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield world
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def channel(number: int) -> dict[str, Any] | None:
    """Return a channel, or None if it is missing. No channel is stale, because this is about episodes."""
    if number % NO_CHANNEL == 0:
        return None
    title = TITLES[number % len(TITLES)][0]
    return {"_id": number, "title": title and title.format(number), "image_url": "N/A"}


def episode(number: int, covers: int, world: World) -> dict[str, Any]:
    """Return an episode whose cover changed. Its other fields vary, as in old databases."""
    cover = number % covers
    more: tuple[dict[str, Any], ...] = (
        {},
        {"metadata": {"kept": number, "image_is_valid": True, "error_detail": {"old": True}}},
        {"last_itunes_image": f"http://old/{number}", "lock": True},
        {"metadata": None, "lock": {"until": LONG_AGO, "run": "dead"}},
    )
    about = {"_id": number, "title": f"Episode {number}", "channel_id": cover, "itunes_image": world.url(cover)}
    return about | more[number // covers % len(more)]


def bystander(number: int, covers: int, world: World) -> dict[str, Any]:
    """Return an episode that no sweep may touch."""
    url = world.url(number % covers)
    kinds: tuple[dict[str, Any], ...] = (
        {"itunes_image": url, "last_itunes_image": url},
        {"itunes_image": "N/A"},
        {"itunes_image": None},
        {"itunes_image": 7, "image_url": url},
        {"itunes_image": url, "metadata": {"image_is_valid": False}},
        {"itunes_image": url, "metadata": {"error": True, "error_detail": {"code": "timeout"}}},
        {"itunes_image": url, "lock": {"until": FAR_OFF, "run": "another"}},
    )
    return {"_id": f"bystander {number}", "title": "B", "channel_id": number, **kinds[number % len(kinds)]}
