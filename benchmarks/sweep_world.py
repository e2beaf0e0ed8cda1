"""What `bench-sweep` plants: channels, episodes and their covers, a part of them bad, and the hosts that serve them."""

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

#: One in so many covers is bad.
BAD = 10

#: Hosts, each a port of its own: as many requests at a time go to one as the settings allow.
HOSTS = 40

#: Pixels of a cover's sides: half of it is of one colour, half of another.
SIDE = 400

LONG_AGO, FAR_OFF = datetime(2001, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Flaw:
    """A way in which a cover is bad, and what must be written of it."""

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

#: Titles of channels, and the folder that each stands for; without a title, and without the channel, it is `CUSTOM`.
TITLES: tuple[tuple[str | None, str], ...] = (
    ("Mundo Cristão {}", "MUNDO_CRISTAO_{}"),
    (" a/b ?c&d {}", "A--B_-C-D_{}"),
    ("北京 {}", "BEIJING_{}"),
    ("Plain {}", "PLAIN_{}"),
    (None, "CUSTOM"),
)

#: Every so many channels, one is not there though its episodes name it.
NO_CHANNEL = 50


def flaw_of(cover: int) -> str:
    """The name of a cover's flaw; empty, where it is good."""
    return list(FLAWS)[cover // BAD % len(FLAWS)] if cover % BAD == 0 else ""


def colours(cover: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The colours of a cover's left and right half: no two covers have the same pair."""
    left = (20 + cover * 37 % 211, 20 + cover * 53 % 197, 20 + cover * 91 % 199)
    red, green, blue = left
    return left, (255 - blue, red, 255 - green)


def folder_of(channel: int) -> str:
    """The folder of a channel's episodes, written down beside its title."""
    if channel % NO_CHANNEL == 0:
        return "CUSTOM"
    return TITLES[channel % len(TITLES)][1].format(channel)


@dataclass
class World:
    """Serves the covers, and knows how often each was asked for."""

    ports: list[int] = field(default_factory=list)
    fetched: Counter[int] = field(default_factory=Counter)

    def url(self, cover: int) -> str:
        """Where a cover is, as its episodes have it."""
        match flaw_of(cover):
            case "private":
                return f"http://10.9.8.7/{cover}.jpg"
            case "no-url":
                return f"cover {cover}"
        return f"http://127.0.0.1:{self.ports[cover % HOSTS]}/{cover}.jpg"

    def answer(self, cover: int) -> tuple[int, bytes]:
        """What its host says."""
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
    picture.save(out, "JPEG", quality=90, comment=str(cover))  # no two have the same bytes
    return out.getvalue()


@contextmanager
def serving() -> Iterator[World]:
    """A world whose hosts answer."""
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
            """A client that hangs up has read what it wanted."""

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
    """A channel, or None where it is missing. None is stale: this is about episodes."""
    if number % NO_CHANNEL == 0:
        return None
    title = TITLES[number % len(TITLES)][0]
    return {"_id": number, "title": title and title.format(number), "image_url": "N/A"}


def episode(number: int, covers: int, world: World) -> dict[str, Any]:
    """An episode whose cover changed. What else is in it differs from one to the next, as in old databases."""
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
    """An episode that no sweep may touch."""
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
