"""A server that accepts connections and never answers, like a database whose process is stopped."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def frozen() -> Iterator[int]:
    """Yield the port of the server. The kernel accepts its connections, and nobody reads from them."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield server.getsockname()[1]
