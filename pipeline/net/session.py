"""The HTTP session for untrusted URLs."""

from __future__ import annotations

from pipeline.clients.lazy import POOL_SIZE, Lazy
from pipeline.net.guard import GuardedSession


@Lazy
def http() -> GuardedSession:
    """Return the shared session for untrusted URLs. Its requests belong inside `http_errors`."""
    return GuardedSession(POOL_SIZE)
