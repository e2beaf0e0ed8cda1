"""Limits of the dashboard on connections, headers and forms, and its memory of sessions and wrong tokens."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

import pytest
import requests

from pipeline.dashboard import auth, connections
from pipeline.dashboard.sessions import MAX_SESSIONS, MAX_WRONG_TOKENS, SESSION, WINDOW, Sessions, Throttle
from tests.support.dashboard import Site, serving
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


def test_a_form_that_does_not_arrive_is_given_up(locked: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "BODY_TIMEOUT", 0.1)
    with socket.create_connection(("127.0.0.1", locked.port), timeout=10) as client:
        client.sendall(b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n" + FORM + b"token=")
        answer = all_from(client)
        assert answer.split()[1] == b"408", answer


@pytest.mark.parametrize(
    "first", [b"", b"GET / HTTP/1.1\r\nHost:", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /"]
)
def test_a_connection_without_a_request_is_closed(locked: Site, monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    monkeypatch.setattr(connections, "HEADER_TIMEOUT", 0.1)
    with socket.create_connection(("127.0.0.1", locked.port), timeout=10) as client:
        client.sendall(first)
        assert client.makefile("rb").read().count(b"HTTP/1.1 200") == first.count(b"/livez")


def test_the_number_of_connections_is_limited(
    nothing_behind: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    with serving() as site:
        with ExitStack() as held:
            for _ in range(2):
                client = held.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=10))
                client.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 200"
            third = held.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=10))
            assert third.recv(1) == b""
        wait_for(lambda: can_connect(site))


FORM = b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"


def all_from(client: socket.socket) -> bytes:
    """Return what a server sends until it closes the connection, perhaps while data from us is still unread."""
    received = b""
    with suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return received


def can_connect(site: Site) -> bool:
    try:
        return site.get("/livez").status_code == 200
    except requests.ConnectionError:
        return False
