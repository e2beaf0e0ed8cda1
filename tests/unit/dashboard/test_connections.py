"""Limits of the dashboard on connections, headers and forms, and its memory of sessions and wrong tokens."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack, suppress

import pytest

from pipeline.dashboard import connections
from pipeline.dashboard.sessions import MAX_SESSIONS, MAX_WRONG_TOKENS, SESSION, WINDOW, Sessions, Throttle
from tests.support.dashboard import Site
from tests.support.waiting import wait_for


def test_sessions_expire_and_their_number_is_limited() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    first = sessions.begin()
    now[0] = SESSION - 1
    assert sessions.is_valid(first)
    second = sessions.begin()
    now[0] = SESSION
    assert [sessions.is_valid(each) for each in (first, second)] == [False, True]
    for _ in range(MAX_SESSIONS):
        last = sessions.begin()
    assert [sessions.is_valid(each) for each in (second, last)] == [False, True]


def test_wrong_tokens_are_forgotten_and_count_for_their_address_alone() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    for _ in range(MAX_WRONG_TOKENS):
        throttle.failed("2001:db8::1")
    assert throttle.wait_for("2001:db8::2") == WINDOW  # the same network of 64 bits
    assert throttle.wait_for("2001:db8:0:1::1") == throttle.wait_for("10.0.0.1") == 0
    now[0] = WINDOW
    assert throttle.wait_for("2001:db8::1") == 0


@pytest.mark.parametrize("path", ["/login", "/submit", "/nowhere"])
def test_a_chunked_body_is_refused_unread_before_any_login(
    locked: Site, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(connections, "LINGER", 0.1)
    # Given a client that has announced a short form, and then sends one without end in chunks
    with socket.create_connection(("127.0.0.1", locked.port), timeout=10) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head.encode())
        client.sendall(b"ffffff\r\nurl=")
        # Then it is refused, and the connection is closed without reading on.
        answer = all_from(client)
    assert answer.split()[1] == b"403"


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost:",
        b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\ntoken=",
    ],
)
def test_a_connection_without_a_request_is_closed(
    locked: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, first: bytes
) -> None:
    monkeypatch.setattr(connections, "ARRIVAL_TIMEOUT", 0.1)
    with socket.create_connection(("127.0.0.1", locked.port), timeout=10) as client:
        client.sendall(first)
        assert client.makefile("rb").read().count(b"HTTP/1.1 200") == first.count(b"/livez")
    assert "Traceback" not in caplog.text


def test_a_form_may_be_answered_after_the_time_in_which_it_must_arrive(
    locked: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ARRIVAL_TIMEOUT", 0.2)
    monkeypatch.setattr("pipeline.dashboard.auth.WRONG_TOKEN_DELAY", 0.5)
    assert locked.post("/login", {"token": "wrong"}).status_code == 401


@pytest.mark.parametrize("number_of_addresses", [1, 24])
@pytest.mark.parametrize(
    "request_", [b"", b"GET / HTTP/1.1\r\nHost:", b"GET /login HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"]
)
def test_peers_that_neither_send_nor_read_shut_out_no_visitor(
    locked: Site, monkeypatch: pytest.MonkeyPatch, request_: bytes, number_of_addresses: int
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    with ExitStack() as held:
        # Given more peers than there are places, which send nothing, a drip, or read no answer
        peers = [held.enter_context(peer(locked, f"127.0.0.{2 + n % number_of_addresses}")) for n in range(60)]
        for each in peers:
            with suppress(OSError):  # it has lost its place already
                each.sendall(request_)
        # Then visitors are served,
        assert [locked.get("/login").status_code for _ in range(5)] == [200] * 5
        # and all but the allowed number lost their places.
        wait_for(lambda: sum(is_closed(each) for each in peers) >= 40)


def test_a_peer_that_does_not_read_its_answers_is_cut(locked: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT", 0.2)
    with socket.socket() as client:
        # Given a peer that asks for more than the buffers take
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", locked.port))
        client.sendall(b"GET /static/dashboard.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 800)
        held = wait_for(lambda: next((each for each in list(locked.connections) if each.flow.write_paused), None))
        # Then its connection ends, although it never reads.
        wait_for(lambda: held.transport.get_extra_info("socket").fileno() == -1, 20)
        assert held not in locked.connections


def test_a_peer_that_sends_more_and_more_requests_at_a_time_is_cut(locked: Site) -> None:
    # The server would keep all of them in memory.
    requests = b"GET /login HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 500_000
    with peer(locked, "127.0.0.1") as client, pytest.raises(ConnectionError):
        client.sendall(requests)


def peer(site: Site, address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", site.port), timeout=10, source_address=(address, 0))


def is_closed(client: socket.socket) -> bool:
    """Return whether the server has closed a connection, whatever waits to be read."""
    poll = select.poll()
    poll.register(client, getattr(select, "POLLRDHUP", 0))  # absent on macOS
    return bool(poll.poll(0))


def all_from(client: socket.socket) -> bytes:
    """Return what a server sends until it closes the connection, perhaps while data from us is still unread."""
    received = b""
    with suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return received
