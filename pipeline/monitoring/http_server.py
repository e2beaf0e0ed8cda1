"""HTTP server of each process for `/metrics`, `/livez` and `/readyz`.

It listens on METRICS_HOST, by default loopback, at the first free port from METRICS_PORT upwards. Many processes can
thus share a host. If no port is free, the process runs without the server.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import urlsplit

import prometheus_client

from pipeline import metrics
from pipeline.monitoring.health import Health
from pipeline.monitoring.peers import one_to_end
from pipeline.settings import Settings
from pipeline.version import version

logger = logging.getLogger(__name__)

#: Number of ports to try.
PORTS = 100

#: Timeout for a client to send the next bytes of its request, and to receive the next of the answer, in seconds.
CLIENT_TIMEOUT = 10.0

#: Seconds after which a connection is closed, whatever it does: more than a scrape takes.
LONGEST_CONNECTION = 30.0

#: Maximum number of open connections. Prometheus and two probes open three.
MAX_CONNECTIONS = 16

#: Maximum number of scrapes that wait for each other. A connection that loses its slot leaves its scrape behind.
MAX_SCRAPES = 4

#: Maximum number of connections that wait to be accepted.
BACKLOG = 128

Refresh = Callable[[], None]


class OpsServer:
    """Serves the metrics and the health of a process.

    Args:
        process: type of the process: `fetch`, ..., `ingest`, `scheduler`.
        queues: names of the queues it consumes.
        health: its liveness and readiness.
        refresh: functions that update gauges before each scrape. If one raises, the others still run.
    """

    def __init__(self, process: str, queues: Iterable[str], health: Health, refresh: Iterable[Refresh] = ()) -> None:
        self._process = process
        self._health = health
        self._refresh = tuple(refresh)
        self._lock = threading.Lock()
        self._scrapes = threading.BoundedSemaphore(MAX_SCRAPES)
        self._server: _Server | None = None
        metrics.PROCESS.labels(process, ",".join(queues), version()).set(1)

    def start(self, settings: Settings) -> int | None:
        """Serve in background threads; return the port, or None if METRICS_PORT is 0 or no port is free."""
        if not settings.metrics_port:
            return None
        host = settings.metrics_host
        try:
            self._server = self._listen(str(host), settings.metrics_port)
        except OSError as error:
            logger.warning("No metrics and no health checks: METRICS_HOST=%s: %s.", host, error.strerror or error)
            return None
        # By default each counter comes with a second series, its creation time.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        threading.Thread(target=self._server.serve_forever, name="ops-server", daemon=True).start()
        port: int = self._server.server_address[1]
        shown = f"[{host}]" if isinstance(host, IPv6Address) else host
        logger.info("%s: metrics and health at http://%s:%d", self._process, shown, port)
        return port

    def close(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Return the status, content type and body for a GET of `path` with the header `Accept: <accept>`."""
        match path:
            case "/metrics":
                return self._scrape(accept)
            case "/livez":
                return _health_answer(list(self._health.not_live()))
            case "/readyz":
                return _health_answer(list(self._health.not_ready()))
        return 404, "text/plain; charset=utf-8", b"This server has /metrics, /livez and /readyz.\n"

    def _scrape(self, accept: str) -> tuple[int, str, bytes]:
        if not self._scrapes.acquire(blocking=False):
            return 503, "text/plain; charset=utf-8", b"Other scrapes are still waiting.\n"
        try:
            with self._lock:  # refreshing clears gauges before it sets them
                self._refresh_gauges()
                return _scraped(accept)
        finally:
            self._scrapes.release()

    def _refresh_gauges(self) -> None:
        metrics.LIVE.labels(self._process).set(not list(self._health.not_live()))
        metrics.READY.labels(self._process).set(not list(self._health.not_ready()))
        for refresh in self._refresh:
            try:
                refresh()
            except Exception as error:
                logger.warning("Some metrics could not be refreshed (%s).", type(error).__name__)

    def _listen(self, host: str, first: int) -> _Server:
        for port in range(first, min(first + PORTS, 65536)):
            try:
                return _Server((host, port), self.answer)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, f"no port from {first} to {port} is free")


def _scraped(accept: str) -> tuple[int, str, bytes]:
    """Return the metrics in the format that the header `Accept` prefers."""
    head: dict[str, str] = {}
    app = prometheus_client.make_wsgi_app(metrics.REGISTRY, disable_compression=True)
    request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "HTTP_ACCEPT": accept}
    body = b"".join(app(request, lambda _, headers: head.update(headers)))
    return 200, head["Content-Type"], body


def _health_answer(problems: list[str]) -> tuple[int, str, bytes]:
    text = "".join(f"{sentence}\n" for sentence in problems) or "ok\n"
    return 503 if problems else 200, "text/plain; charset=utf-8", text.encode()


def knows(host: str) -> bool:
    """Return whether a Host header may name this server: by an address, its own name, or a name without a dot.

    A page in a browser can make any name with a dot lead here (DNS rebinding), but no such name.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and ("." not in name or name in _own_names())
    return True


@cache
def _own_names() -> frozenset[str]:
    return frozenset({socket.gethostname().lower(), socket.getfqdn().lower()})


@dataclass(frozen=True)
class _Connection:
    socket: socket.socket
    address: str
    began: float

    def end(self) -> None:
        """Wake the thread that reads from it or writes to it, which then closes it."""
        with suppress(OSError):  # its thread has just closed it
            self.socket.shutdown(socket.SHUT_RDWR)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = BACKLOG

    def __init__(self, address: tuple[str, int], answer: Callable[[str, str], tuple[int, str, bytes]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.answer = answer
        self._open: list[_Connection] = []  # oldest first
        self._open_lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a request in a thread of its own. If all slots are taken, another connection ends."""
        with self._open_lock:
            self._open.append(_Connection(request, client_address[0], time.monotonic()))
            if len(self._open) > MAX_CONNECTIONS:
                self._open.pop(one_to_end([each.address for each in self._open])).end()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open = [each for each in self._open if each.socket is not request]
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut connections that are open for too long; `serve_forever` calls this twice a second."""
        latest = time.monotonic() - LONGEST_CONNECTION
        for connection in tuple(self._open):
            if connection.began < latest:
                connection.end()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # a client that disconnects is not worth a line
            logger.warning("A request for metrics or health failed (%s).", type(error).__name__)


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT
    server: _Server

    def do_GET(self) -> None:
        if knows(self.headers.get("Host", "localhost")):
            answer = self.server.answer(self.path.partition("?")[0], self.headers.get("Accept", ""))
        else:
            answer = 421, "text/plain; charset=utf-8", b"This host name is not known here. Use an address.\n"
        status, content_type, body = answer
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "image-pipeline"

    def log_message(self, *_: Any) -> None:
        """Log nothing about scrapes."""
