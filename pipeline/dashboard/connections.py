"""Limits on connections that uvicorn does not have: their number, and the time until a request arrives."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Maximum number of open connections. A browser opens up to six.
MAX_CONNECTIONS = 100

#: Seconds in which the headers of a request must arrive, on new and on kept connections.
HEADER_TIMEOUT = 10.0

#: Seconds from the answer to a request whose body is not read until its connection is closed. A client that is still
#: sending would lose the answer if it was closed at once.
LINGER = 1.0


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 that closes connections beyond `MAX_CONNECTIONS` and those without a request."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
        else:
            self._close_after(HEADER_TIMEOUT)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:  # the request was refused, so the rest of its body is not read
            self.transport.pause_reading()
            self._close_after(LINGER)
        else:
            self._close_after(HEADER_TIMEOUT)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting:
            self._waiting.cancel()
        super().connection_lost(exc)

    def _close_after(self, seconds: float) -> None:
        if self._waiting:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
