"""A server of the tests that the product itself never starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.local.embedded import Server, locked


@contextmanager
def running(kind: type[Server], folder: Path) -> Iterator[str]:
    """Run a server with its data in a folder; yield its endpoint."""
    with locked(folder) as lock:
        server = kind(folder, folder, lock)
        server.launch()
        try:
            server.wait_until_it_answers()
            yield f"http://127.0.0.1:{server.port}"
        finally:
            server.stop(0)
