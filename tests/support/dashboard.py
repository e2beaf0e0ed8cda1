"""Runs the dashboard on a real socket and reads its pages as a browser does."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import requests
import uvicorn

from pipeline.dashboard.app import make_app, server_config
from pipeline.dashboard.auth import Access
from pipeline.settings import get_settings
from tests.support.waiting import wait_for

TOKEN = "a token of 24 characters"
HUSH = "hush-9f3b"


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@dataclass
class Site:
    """A running dashboard and its visitor."""

    port: int
    access: Access
    app: Any
    connections: set[Any]

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str = "/", **headers: str) -> requests.Response:
        headers = {"Accept": "text/html"} | {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.get(self.url(path), headers=headers, timeout=30, allow_redirects=False)

    def post(self, path: str, fields: dict[str, str] | None = None, **headers: str) -> requests.Response:
        """Post a form of the dashboard as a browser does; `fields` and `headers` override its values."""
        data = {"csrf": self.access.csrf} | (fields or {})
        headers = {"Origin": self.url("").rstrip("/"), "Sec-Fetch-Site": "same-origin"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return requests.post(self.url(path), data=data, headers=headers, timeout=30, allow_redirects=False)

    def text(self, path: str = "/") -> str:
        """Return the text that a person reads on a page."""
        return Page(self.get(path).text).text


@contextmanager
def serving(access: Access | None = None) -> Iterator[Site]:
    """Run a dashboard on a free port with this process's settings."""
    access = access or Access.for_host("127.0.0.1", None)
    app = make_app(get_settings(), access)
    inner: Any = app.app
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(server_config(app))
        thread = threading.Thread(target=server.run, args=[[listener]], daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        site = Site(listener.getsockname()[1], access, inner, server.server_state.connections)
        try:
            yield site
        finally:
            server.should_exit = True
            thread.join(10)


class Page(HTMLParser):
    """A parsed page: its text, and its elements with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self._texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self._texts)).strip()

    def values(self, attribute: str) -> list[str]:
        """Return the values of an attribute in all elements."""
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]
