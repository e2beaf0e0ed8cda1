"""Sessions of the dashboard, and the limit on wrong tokens. Both live in the memory of its process."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.monitoring.peers import network_of

logger = logging.getLogger(__name__)

#: Lifetime of a session in seconds, and the maximum number of sessions. The oldest ends first.
SESSION = 12 * 3600
MAX_SESSIONS = 1000

#: Wrong tokens of one address that are answered and logged in a window of as many seconds.
MAX_WRONG_TOKENS, WINDOW = 10, 60.0

#: Addresses with wrong tokens that are remembered. Beyond that, no further address may try.
MAX_ADDRESSES = 10_000


class Sessions:
    """The sessions that have not ended, by the hash of their cookie.

    Args:
        clock: Returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def begin(self) -> str:
        """Begin a session, and return the value of its cookie."""
        if len(self._until) >= MAX_SESSIONS:
            del self._until[next(iter(self._until))]
        cookie = secrets.token_urlsafe(32)
        self._until[_hash(cookie)] = self._clock() + SESSION
        return cookie

    def is_valid(self, cookie: str) -> bool:
        """Return whether `cookie` belongs to a session that has not ended."""
        return self._until.get(_hash(cookie), 0.0) > self._clock()

    def end(self, cookie: str) -> None:
        """End the session of `cookie`, if there is one."""
        self._until.pop(_hash(cookie), None)


@dataclass
class _Window:
    """The wrong tokens of one address since `began`."""

    began: float
    count: int = 0


class Throttle:
    """Limits the wrong tokens of each client address.

    Args:
        clock: Returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def wait_for(self, client: str) -> float:
        """Return the seconds until `client` may send another token; 0 if it may now."""
        now = self._clock()
        window = self._windows.get(network_of(client))
        if window is None or now >= window.began + WINDOW:
            self._forget_old(now)
            return WINDOW if len(self._windows) >= MAX_ADDRESSES else 0.0
        return window.began + WINDOW - now if window.count >= MAX_WRONG_TOKENS else 0.0

    def failed(self, client: str) -> None:
        """Count and log a wrong token."""
        now, network = self._clock(), network_of(client)
        window = self._windows.get(network)
        if window is None or now >= window.began + WINDOW:
            window = self._windows[network] = _Window(now)
        window.count += 1
        logger.warning("A wrong token came from %s, number %d within %d s.", client, window.count, WINDOW)
        if window.count == MAX_WRONG_TOKENS:
            logger.warning("More wrong tokens from %s are not logged for the rest of that time.", network)

    def _forget_old(self, now: float) -> None:
        if len(self._windows) >= MAX_ADDRESSES:
            self._windows = {name: each for name, each in self._windows.items() if now < each.began + WINDOW}


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()  # so that comparing takes the same time for every guess
