"""The HTTP sessions for untrusted URLs.

Fetch and postback have one each, because a connection that is kept open was checked by the rules of its session.
"""

from __future__ import annotations

from pipeline.clients.lazy import POOL_SIZE, Lazy
from pipeline.net.guard import GuardedSession, Reach
from pipeline.settings import get_settings


@Lazy
def fetch_session() -> GuardedSession:
    """Return the shared session for sources. Its requests belong inside `http_errors`."""
    settings = get_settings()
    reach = Reach(settings.fetch_networks, settings.blocked_networks, settings.allowed_ports)
    return GuardedSession(POOL_SIZE, reach, settings.user_agent)


@Lazy
def postback_session() -> GuardedSession:
    """Return the shared session for receivers of postbacks. Its requests belong inside `http_errors`."""
    settings = get_settings()
    reach = Reach(settings.postback_networks, settings.blocked_networks)
    return GuardedSession(POOL_SIZE, reach, settings.user_agent)
