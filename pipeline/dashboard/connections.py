"""Limits on connections that uvicorn does not have: their number, and the time that a peer may take."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.monitoring.peers import one_to_end

#: Maximum number of open connections. A browser opens up to six.
MAX_CONNECTIONS = 100

#: Seconds in which the headers of a request must arrive, on new and on kept connections, and then its body.
ARRIVAL_TIMEOUT = 10.0

#: Seconds in which a request must be answered, and its answer be read.
REQUEST_TIMEOUT = 60.0

#: Maximum size in bytes of the requests that wait for the answer to the first. Browsers send one at a time.
MAX_PIPELINED = 64 * 1024

#: Seconds from the answer to a request whose body is not read until its connection is closed. A client that is still
#: sending would lose the answer if it was closed at once.
LINGER = 1.0


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 with a maximum number of connections, and a deadline for each step of a connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._began = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end_after(ARRIVAL_TIMEOUT)
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # uvicorn reads on after each answer, whatever waits already.
        if self.conn.their_state is h11.DONE and len(self.conn.trailing_data[0]) > MAX_PIPELINED:
            self._end()

    def handle_events(self) -> None:
        before = self.cycle, self.conn.their_state
        super().handle_events()
        if (self.cycle, self.conn.their_state) != before and not self.cycle.response_complete:
            # A request, or the last part of its body, has arrived.
            self._end_after(ARRIVAL_TIMEOUT if self.conn.their_state is h11.SEND_BODY else REQUEST_TIMEOUT)

    def on_response_complete(self) -> None:
        cycle = self.cycle
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:  # the request was refused, so the rest of its body is not read
            self.transport.pause_reading()
            self._end_after(LINGER)
        elif self.cycle is cycle and not self.transport.get_write_buffer_size():
            self._end_after(ARRIVAL_TIMEOUT)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _end_after(self, seconds: float) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._end)

    def _end(self) -> None:
        """End the connection at once, even if its peer does not read what has been written."""
        self.connections.discard(self)
        self.transport.abort()

    def _make_room(self) -> None:
        oldest_first = sorted(
            (each for each in self.connections if isinstance(each, LimitedProtocol)), key=lambda each: each._began
        )
        index = one_to_end([each.client[0] if each.client else "" for each in oldest_first])
        oldest_first[index]._end()
