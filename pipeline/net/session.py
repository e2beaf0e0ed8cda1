"""The HTTP session for URLs from messages."""

from __future__ import annotations

from pipeline.clients.lazy import Lazy
from pipeline.net.guard import GuardedSession

#: Connections kept open: more than the threads of any process in the Procfile.
POOL_SIZE = 64


@Lazy
def http() -> GuardedSession:
    """The session for untrusted URLs; its requests belong inside `http_errors`."""
    return GuardedSession(POOL_SIZE)
