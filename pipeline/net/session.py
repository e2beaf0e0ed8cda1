"""The HTTP session for untrusted URLs."""

from __future__ import annotations

from pipeline.clients.lazy import Lazy
from pipeline.net.guard import GuardedSession

#: How many connections stay open: more than any process in the Procfile has threads.
POOL_SIZE = 64


@Lazy
def http() -> GuardedSession:
    """Return the shared session for untrusted URLs. Its requests belong inside `http_errors`."""
    return GuardedSession(POOL_SIZE)
