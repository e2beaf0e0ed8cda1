"""Servers on loopback that misbehave in any way, byte for byte, and a DNS of made-up names."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import pytest

from pipeline.clients import lazy
from pipeline.errors import PipelineError
from pipeline.net.download import Download, Slot, download_if_changed
from pipeline.net.download_memory import DownloadMemory, Share
from pipeline.settings import get_settings

#: Answers one request with the bytes that it yields. It may wait for `Remote.stopped`.
Behaviour = Callable[["Remote", "Request"], Iterable[bytes]]


@dataclass
class Request:
    head: str
    body: bytes

    @property
    def path(self) -> str:
        return self.head.split(" ")[1]

    def header(self, name: str) -> str | None:
        lines = (line.partition(": ") for line in self.head.split("\r\n"))
        return next((value for key, _, value in lines if key.lower() == name.lower()), None)


@dataclass
class Remote:
    """A running server: its port, the requests and the connections it received, and the number of bytes it sent."""

    behave: Behaviour
    listener: socket.socket
    port: int
    tls: ssl.SSLContext | None
    speaks_first: bool = False
    refuses_tls: bool = False
    connections: int = 0
    sent: int = 0
    requests: list[Request] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    server_names: list[str | None] = field(default_factory=list)

    def url(self, rest: str = "/cover.jpg", host: str = "127.0.0.1") -> str:
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{rest}"

    def accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock: socket.socket) -> None:
        with suppress(OSError, ValueError):  # The client may hang up at any time.
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
            with closing(sock), sock.makefile("rb") as stream:
                if self.speaks_first:
                    self.answer(sock, Request("", b""))
                if self.refuses_tls and stream.peek(1).startswith(b"\x16"):  # the first byte of a TLS handshake
                    return
                while head := "".join(takewhile(str.strip, (line.decode("latin-1") for line in stream))):
                    request = Request(head, b"")
                    request.body = stream.read(int(request.header("content-length") or 0))
                    self.requests.append(request)
                    if not self.answer(sock, request):
                        return

    def answer(self, sock: socket.socket, request: Request) -> bool:
        """Answer a request; return whether the connection stays open."""
        keep = False
        for piece in self.behave(self, request):
            sock.sendall(piece)
            self.sent += len(piece)
            keep = b"keep-alive" in piece
        return keep


@contextmanager
def remote(
    behave: Behaviour,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    speaks_first: bool = False,
    refuses_tls: bool = False,
) -> Iterator[Remote]:
    """Run a server with this behaviour until the end of the block.

    `speaks_first` answers before any request; `refuses_tls` closes a connection that begins with a TLS handshake.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    server = Remote(behave, listener, listener.getsockname()[1], tls, speaks_first, refuses_tls)
    if tls:
        tls.sni_callback = lambda _, name, __: server.server_names.append(name)
    threading.Thread(target=server.accept, daemon=True).start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()


def answer(status: int = 200, body: bytes = b"", *headers: str, keep: bool = False) -> bytes:
    """Build a well-formed answer; `keep` leaves the connection open."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    lines.append("Connection: keep-alive" if keep else "Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def always(*pieces: bytes) -> Behaviour:
    """Answer every request with these bytes."""
    return lambda _, __: pieces


def endless(head: bytes, piece: bytes, pause: float = 0) -> Behaviour:
    """Answer every request with `head`, then with `piece` forever, after a `pause` in seconds before each piece."""

    def behave(server: Remote, _: Request) -> Iterator[bytes]:
        yield head
        while not server.stopped.wait(pause):
            yield piece

    return behave


def stalled(*pieces: bytes) -> Behaviour:
    """Answer every request with these bytes and then stay silent."""

    def behave(server: Remote, _: Request) -> Iterator[bytes]:
        yield from pieces
        server.stopped.wait()

    return behave


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Set these environment variables, and make the clients read them at their next use."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    lazy.forget()


def dns(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[list[str]]]) -> list[str]:
    """Resolve these names to one list of addresses per query, the last one forever. Yields the names asked for."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host: str, port: int, *args: int, **options: int) -> object:
        if host not in names:
            return real(host, port, *args, **options | {"flags": socket.AI_NUMERICHOST})
        answers = names[host]
        addresses = answers[min(asked.count(host), len(answers) - 1)]
        asked.append(host)
        return [found for address in addresses for found in real(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def internet(monkeypatch: pytest.MonkeyPatch, hosts: dict[str, Remote], *others: Remote) -> list[str]:
    """Redirect every connection to a server of the test, and yield the requested addresses in order.

    Args:
        hosts: the server behind each address.
        others: the servers behind all other addresses; the server on loopback of the same IP version is used.
            Ports make no difference.
    """
    real, reached = socket.socket.connect, []
    by_family = {other.listener.family: other for other in others}

    def connect(sock: socket.socket, address: tuple[str, int]) -> None:
        reached.append(address[0])
        server = hosts.get(address[0]) or by_family[sock.family]
        real(sock, server.listener.getsockname())

    monkeypatch.setattr(socket.socket, "connect", connect)
    return reached


def downloaded(url: str, slot: Slot = nullcontext, *, share: Share | None = None, **options: Any) -> Download:
    """Download within memory of its own, and without a host limiter."""
    return download_if_changed(
        url, slot, share=share or Share(DownloadMemory(get_settings().max_source_bytes)), **options
    )


def download(url: str, slot: Slot = nullcontext, **options: Any) -> bytes:
    """Download the bytes at `url`."""
    return downloaded(url, slot, **options).image or b""


def failed_download(url: str) -> PipelineError:
    """Return the error of a download."""
    with pytest.raises(PipelineError) as caught:
        download(url)
    return caught.value
