"""The world around the service: serves covers with unique bytes, and receives postbacks."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from typing import Any


class World:
    """Covers at `/cover/<picture>/<job>`, postbacks at `/hook/<job>`.

    Args:
        covers: JPEG files by picture, which is the file's name without its suffix: `animals-3000`.
    """

    def __init__(self, covers: Mapping[str, bytes]) -> None:
        self._covers = covers
        self._arrived: dict[str, float] = {}
        self._news = threading.Condition()
        self.port = 0

    @property
    def base(self) -> str:
        """The URL of its server, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def payloads(self, side: int, count: int) -> dict[str, dict[str, str]]:
        """Return input messages for `count` covers of that side, by job id, alternating between the pictures."""
        pictures = cycle(sorted(each for each in self._covers if each.endswith(f"-{side}")))
        base = self.base
        ids = (secrets.token_hex(8) for _ in range(count))
        return {
            each: {
                "image_url": f"{base}/cover/{next(pictures)}/{each}",
                "postback_url": f"{base}/hook/{each}",
                "bucket_name": "Benchmark",
            }
            for each in ids
        }

    def parts(self, path: str) -> Iterable[bytes | memoryview]:
        """Return the cover at `path`, with the job's id as a comment, so that no two have the same content."""
        _, _, picture, job = path.split("/")
        cover = self._covers[picture]
        return cover[:2] + b"\xff\xfe" + (len(job) + 2).to_bytes(2, "big") + job.encode(), memoryview(cover)[2:]

    def arrive(self, job: str) -> None:
        """Record a postback."""
        with self._news:
            self._arrived.setdefault(job, time.monotonic())
            self._news.notify_all()

    def wait_for(self, jobs: Iterable[str], timeout: float) -> list[float]:
        """Wait for the postbacks of `jobs` and return the time of each.

        Raises:
            TimeoutError: some did not come within `timeout` seconds.
        """
        jobs = list(jobs)
        with self._news:
            if not self._news.wait_for(lambda: all(each in self._arrived for each in jobs), timeout):
                lacking = sum(each not in self._arrived for each in jobs)
                raise TimeoutError(f"{lacking} of {len(jobs)} jobs did not end within {timeout:g} s")
            return [self._arrived[each] for each in jobs]

    def arrived(self, jobs: Iterable[str], timeout: float) -> dict[str, float]:
        """Return the time of each postback of `jobs` that comes within `timeout` seconds."""
        jobs = list(jobs)
        with self._news:
            self._news.wait_for(lambda: all(each in self._arrived for each in jobs), timeout)
            return {each: self._arrived[each] for each in jobs if each in self._arrived}


@contextmanager
def serving(sources: Path, sides: Iterable[int]) -> Iterator[World]:
    """Serve the JPEG files of `sources` that have one of these sides."""
    names = [path for side in sides for path in sorted(sources.glob(f"*-{side}.jpg"))]
    world = World({path.stem: path.read_bytes() for path in names})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536

        def do_GET(self) -> None:
            self._answer(200, world.parts(self.path))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(204, [])
            world.arrive(self.path.rpartition("/")[2])

        def _answer(self, status: int, parts: Iterable[bytes | memoryview]) -> None:
            parts = list(parts)
            self.send_response(status)
            self.send_header("Content-Length", str(sum(map(len, parts))))
            self.end_headers()
            for part in parts:
                self.wfile.write(part)
            self.wfile.flush()

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

        def handle_error(self, *_: Any) -> None: ...  # a download that found no memory hangs up

    server = Server(("127.0.0.1", 0), Handler)
    world.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield world
    finally:
        server.shutdown()
        server.server_close()
