"""Servers that never stop, or send more than they announce: each download ends within its limit.

In each group of tests only one limit can end the download. If that limit is broken, another limit ends it with another
code.
"""

from __future__ import annotations

import gzip
import itertools
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace

import pytest

from pipeline.clients import lazy
from pipeline.errors import PermanentError, PipelineError, Retry, RetryableError
from pipeline.net import guard
from tests.support.untrusted_servers import (
    Behaviour,
    Remote,
    Request,
    always,
    answer,
    dns,
    download,
    endless,
    internet,
    remote,
    settings,
    stalled,
)

MAX_BYTES = 100_000

#: Maximum bytes that a server may have sent on a connection: the download's limit and the sockets' buffers.
MAX_SENT = MAX_BYTES * 5 // 4 + 2**20 + 2**24

#: Timeout in seconds that should end no test; tests that wait do so for much less, or would wait forever.
LONG = 60.0

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
PIECE = b"x" * 65_536


@cache
def packed(wbits: int, times: int = 1) -> bytes:
    """Make a small body that becomes 20 million bytes when it is unpacked this many times."""
    data = bytes(20_000_000)
    for _ in range(times):
        packer = zlib.compressobj(wbits=wbits)
        data = packer.compress(data) + packer.flush()
    return data


GZIP, ZLIB, RAW_DEFLATE = 31, 15, -15
DEFLATED = HEAD + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(b"")[:2]
NOTHING = b"\x00\x00\x00\xff\xff" * 50_000  # Empty deflate blocks.


def numbered(head: str, number: int, size: int) -> bytes:
    """Build an answer with this many headers of this size."""
    return (head + "".join(f"X-{n}: {'x' * size}\r\n" for n in range(number)) + "\r\n").encode()


TOO_MUCH: dict[str, tuple[Behaviour, str]] = {
    "endless body": (endless(HEAD + b"\r\n", PIECE), "too_large"),
    "endless body with a length": (endless(HEAD + b"Content-Length: 5000000000\r\n\r\n", PIECE), "too_large"),
    "endless body with an absurd length": (endless(HEAD + b"Content-Length: -1e99\r\n\r\n", PIECE), "too_large"),
    "endless chunks": (endless(CHUNKED, b"10000\r\n" + PIECE + b"\r\n"), "too_large"),
    "endless tiny chunks": (endless(CHUNKED, b"1\r\nx\r\n" * 10_000), "too_large"),
    "endless chunk": (endless(CHUNKED + b"ffffffffffffffffffff\r\n", PIECE), "too_large"),
    "endless chunk of negative size": (endless(CHUNKED + b"-1\r\n", PIECE), "incomplete"),
    "endless chunk size": (endless(CHUNKED, b"f" * 65_536), "incomplete"),
    "endless trailer": (endless(CHUNKED + b"3\r\npic\r\n0\r\n", b"X-Trailer: x\r\n" * 1000), "too_large"),
    "endless chunks despite a length": (
        endless(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 7\r\n\r\n"), b"10000\r\n" + PIECE + b"\r\n"),
        "too_large",
    ),
    "gzip bomb": (always(answer(200, packed(GZIP), "Content-Encoding: gzip")), "too_large"),
    "gzip bomb by its other name": (always(answer(200, packed(GZIP), "Content-Encoding: x-gzip")), "too_large"),
    "gzip bomb in gzip": (always(answer(200, packed(GZIP, 2), "Content-Encoding: gzip, gzip")), "too_large"),
    "gzip bomb in five gzips": (
        always(answer(200, packed(GZIP, 5), "Content-Encoding: gzip, gzip, gzip, gzip, gzip")),
        "too_large",
    ),
    "gzip bomb in six gzips": (
        always(answer(200, packed(GZIP, 6), "Content-Encoding: gzip, gzip, gzip, gzip, gzip, gzip")),
        "bad_encoding",
    ),
    "gzip bomb in chunks": (
        always(
            CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
            b"4000\r\n",
            packed(GZIP)[:0x4000],
            b"\r\n0\r\n\r\n",
        ),
        "too_large",
    ),
    "deflate bomb": (always(answer(200, packed(ZLIB), "Content-Encoding: deflate")), "too_large"),
    "deflate bomb without a header": (
        always(answer(200, packed(RAW_DEFLATE), "Content-Encoding: deflate")),
        "too_large",
    ),
    "endless deflated nothing": (endless(DEFLATED, NOTHING), "too_large"),
    "endless empty gzips": (
        endless(HEAD + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b"") * 1000),
        "too_large",
    ),
    "endless body labelled brotli": (endless(HEAD + b"Content-Encoding: br\r\n\r\n", PIECE), "too_large"),
    "endless body labelled zstd": (endless(HEAD + b"Content-Encoding: zstd\r\n\r\n", PIECE), "too_large"),
    "endless status line": (endless(b"", PIECE), "unreachable"),
    "endless header": (endless(HEAD + b"X-Header: ", PIECE), "unreachable"),
    "endless headers": (endless(HEAD, b"X-Header: " + b"x" * 1000 + b"\r\n"), "unreachable"),
    "endless folded header": (endless(HEAD + b"X-Header: x\r\n", b" x\r\n" * 1000), "unreachable"),
    "101 headers": (always(numbered("HTTP/1.1 200 OK\r\n", 101, 10)), "unreachable"),
    "99 long headers": (always(numbered("HTTP/1.1 200 OK\r\n", 99, 3_000)), "unreachable"),
    "99 huge headers": (always(numbered("HTTP/1.1 200 OK\r\n", 99, 60_000)), "unreachable"),
    "endless 100 Continue": (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "unreachable"),
    "endless 103 Early Hints": (endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000), "unreachable"),
    "endless error page": (endless(b"HTTP/1.1 404 Not Found\r\n\r\n", PIECE), "http_404"),
    "endless error page for now": (endless(b"HTTP/1.1 503 Later\r\n\r\n", PIECE), "http_503"),
    "endless body of a redirect": (endless(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", PIECE), "too_many_redirects"),
    "chunk longer than the body": (always(CHUNKED + b"7fffffff\r\npicture"), "incomplete"),
}

DRIPS: dict[str, Behaviour] = {
    "body": endless(HEAD + b"\r\n", b"x", 0.05),
    "body with a length": endless(HEAD + b"Content-Length: 1000\r\n\r\n", b"x", 0.05),
    "compressed body": endless(DEFLATED, b"\x00\x00\x00\xff\xff", 0.05),
    "chunks": endless(CHUNKED, b"1\r\nx\r\n", 0.05),
    "chunk size": endless(CHUNKED, b"0", 0.05),
    "trailer": endless(CHUNKED + b"0\r\n", b"x", 0.05),
    "status line": endless(b"", b"H", 0.05),
    "header": endless(HEAD, b"x", 0.05),
    "headers": endless(HEAD, b"X-Header: x\r\n", 0.05),
    "100 Continue": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
    "103 Early Hints": endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.05),
}

SILENCES: dict[str, Behaviour] = {
    "after the request": stalled(),
    "after 100 Continue": stalled(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "in the headers": stalled(HEAD),
    "after the headers": stalled(HEAD + b"Content-Length: 7\r\n\r\n"),
    "in the body": stalled(HEAD + b"Content-Length: 7\r\n\r\npict"),
    "in a chunk": stalled(CHUNKED + b"7\r\npict"),
    "before the last chunk": stalled(CHUNKED + b"7\r\npicture\r\n"),
}


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    limits(monkeypatch)
    yield
    lazy.forget()


def limits(monkeypatch: pytest.MonkeyPatch, *, wait: float = LONG, total: float = LONG) -> None:
    """Set the timeouts in seconds: for connecting and between bytes, and in total."""
    settings(
        monkeypatch,
        ALLOWED_NETWORKS="127.0.0.1/32",
        FETCH_TIMEOUT=str(wait),
        FETCH_TOTAL_TIMEOUT=str(total),
        MAX_SOURCE_BYTES=str(MAX_BYTES),
    )


def end_of(url: str) -> PipelineError:
    """Return the error that ends a download."""
    started = time.monotonic()
    with pytest.raises(PipelineError) as caught:
        download(url)
    assert time.monotonic() - started < LONG / 2
    return caught.value


class TestTooMuch:
    @pytest.mark.parametrize(("behave", "code"), TOO_MUCH.values(), ids=TOO_MUCH)
    def test_it_ends_by_its_size(self, behave: Behaviour, code: str) -> None:
        with remote(behave) as server:
            error = end_of(server.url())
        assert error.code == code
        assert (type(error) is PermanentError) == (code not in {"incomplete", "unreachable", "http_503"})
        assert server.sent < MAX_SENT * server.connections

    @pytest.mark.parametrize("name", ["gzip bomb in five gzips", "deflate bomb", "endless chunk of negative size"])
    def test_it_takes_little_memory(self, name: str) -> None:
        # Given 20 million bytes for a read without limit
        with remote(TOO_MUCH[name][0]) as server:
            tracemalloc.start()
            # When it is fetched
            end_of(server.url())
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        # Then only a small part of it was ever in memory
        assert peak < 4_000_000

    def test_six_requests_are_made_of_endless_redirects(self) -> None:
        numbers = itertools.count()

        def behave(_: Remote, request: Request) -> Iterator[bytes]:
            yield answer(302, b"", f"Location: /{next(numbers)}")

        with remote(behave) as server:
            error = end_of(server.url())
        assert (type(error), error.code, len(server.requests)) == (PermanentError, "too_many_redirects", 6)


class TestTooSlow:
    @pytest.mark.parametrize("behave", DRIPS.values(), ids=DRIPS)
    def test_a_drip_ends_by_the_total_time(self, monkeypatch: pytest.MonkeyPatch, behave: Behaviour) -> None:
        limits(monkeypatch, total=0.3)
        with remote(behave) as server:
            error = end_of(server.url())
        assert (type(error), error.code) == (PermanentError, "too_slow")

    def test_so_do_slow_redirects(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def behave(server: Remote, _: Request) -> Iterator[bytes]:
            server.stopped.wait(0.1)
            yield answer(302, b"", "Location: /next")

        limits(monkeypatch, total=0.3)
        with remote(behave) as server:
            assert end_of(server.url()).code == "too_slow"

    @pytest.mark.parametrize("behave", SILENCES.values(), ids=SILENCES)
    def test_silence_ends_by_the_time_between_bytes(self, monkeypatch: pytest.MonkeyPatch, behave: Behaviour) -> None:
        limits(monkeypatch, wait=0.2)
        with remote(behave) as server:
            error = end_of(server.url())
        assert isinstance(error, RetryableError)
        assert (error.code, error.retry) == ("timeout", Retry.SOURCE)

    def test_a_connection_that_is_not_accepted_ends_by_the_connect_timeout(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a server whose backlog is full
        limits(monkeypatch, wait=0.2)
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(0)
            with socket.create_connection(server.getsockname()):
                # When a URL is fetched from it, the connection is never established
                assert end_of(f"http://127.0.0.1:{server.getsockname()[1]}/x").code == "timeout"


class TestHandshake:
    """TLS, before anything that http.client reads."""

    @pytest.mark.parametrize(
        ("behave", "code"),
        [
            (stalled(), "timeout"),
            (endless(b"\x16\x03\x03\x40\x00", b"\x02", 0.05), "timeout"),
            (endless(b"\x16\x03\x03\xff\xff", PIECE), "tls_error"),
            (endless(b"", PIECE), "tls_error"),
            (always(answer(200, b"picture")), "tls_error"),
            (always(b"\x15\x03\x03\x00\x02\x02\x28"), "tls_error"),
        ],
        ids=["silence", "drip", "record too long", "endless noise", "no TLS", "alert"],
    )
    def test_each_ends_within_its_limit(self, monkeypatch: pytest.MonkeyPatch, behave: Behaviour, code: str) -> None:
        limits(monkeypatch, wait=0.3)
        with remote(behave, speaks_first=True) as server:
            error = end_of(server.url().replace("http:", "https:"))
        assert isinstance(error, RetryableError)
        assert (error.code, error.retry) == (code, Retry.SOURCE)
        assert server.sent < MAX_SENT * server.connections

    def test_it_has_only_the_rest_of_the_time_to_connect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Given a silent server that used up most of the time to connect
        passed = [0.0]
        monkeypatch.setattr(guard, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))
        with remote(stalled(), speaks_first=True) as server:
            internet(monkeypatch, {"127.0.0.1": server})
            connect = socket.socket.connect

            def slow_connect(sock: socket.socket, address: tuple[str, int]) -> None:
                connect(sock, address)
                passed[0] += LONG - 0.3

            monkeypatch.setattr(socket.socket, "connect", slow_connect)
            # When a URL is fetched from it over TLS
            error = end_of("https://127.0.0.1/x")
        # Then the download ends by its total time, not by another timeout
        assert (type(error), error.code) == (PermanentError, "too_slow")


class TestLookUp:
    @pytest.fixture(autouse=True)
    def _silence(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Use a DNS that never answers."""
        done = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: done.wait())
        yield
        done.set()

    def test_a_dns_that_never_answers_is_retried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        limits(monkeypatch, wait=0.2)
        error = end_of("http://silent.example/x")
        assert isinstance(error, RetryableError)
        assert (error.code, error.retry) == ("timeout", Retry.SOURCE)

    def test_its_time_counts_towards_the_total(self, monkeypatch: pytest.MonkeyPatch) -> None:
        limits(monkeypatch, total=0.2)
        assert end_of("http://silent.example/x").code == "too_slow"


def test_eight_addresses_that_do_not_answer_share_the_total_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, wait=0.2, total=0.5)
    dns(monkeypatch, {"slow.example": [[f"8.8.8.{n}" for n in range(8)]]})

    def connect(sock: socket.socket, address: tuple[str, int]) -> None:
        reached.append(address[0])
        time.sleep(sock.gettimeout() or LONG)
        raise TimeoutError

    reached: list[str] = []
    monkeypatch.setattr(socket.socket, "connect", connect)

    assert end_of("http://slow.example/x").code == "too_slow"
    assert 1 < len(reached) < 8
