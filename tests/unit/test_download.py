"""A source from a stranger: every limit ends it, every failure has its code."""

from __future__ import annotations

import gzip
import socket
import time
import traceback
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from pipeline import clients
from pipeline.download import download
from pipeline.errors import PermanentError, PipelineError, Retry, RetryableError
from tests.unit.strangers import Behaviour, Request, Stranger, always, answer, settings, stranger

MAX_BYTES = 100_000
SECRET = "-".join(["not", "to", "be", "told"])  # so that no source line in a traceback holds it
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings(
        monkeypatch,
        ALLOWED_NETWORKS="127.0.0.0/8",
        FETCH_TIMEOUT="0.3",
        FETCH_TOTAL_TIMEOUT="1",
        MAX_SOURCE_BYTES=str(MAX_BYTES),
    )
    yield
    clients.forget()


def failure(behave: Behaviour, path: str = "/cover.jpg") -> PipelineError:
    """What comes of a download from a server that behaves so; it takes no longer than the limits allow."""
    with stranger(behave) as server:
        started = time.monotonic()
        with pytest.raises(PipelineError) as caught:
            download(server.url(f"{path}?{SECRET}").replace("http://", f"http://{SECRET}:{SECRET}@"))
        assert time.monotonic() - started < 3
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return caught.value


def endless(head: bytes, piece: bytes, pause: float = 0) -> Behaviour:
    def behave(server: Stranger, _: Request) -> Iterator[bytes]:
        yield head
        while not server.stopped.wait(pause):
            yield piece

    return behave


def stalled(*pieces: bytes) -> Behaviour:
    def behave(server: Stranger, _: Request) -> Iterator[bytes]:
        yield from pieces
        server.stopped.wait()

    return behave


class TestWhatComesBack:
    def test_the_bytes_with_a_request_that_says_who_asks(self) -> None:
        with stranger(always(answer(200, b"picture"))) as server:
            assert download(server.url("/a%20b.jpg?size=1#part")) == b"picture"
        request = server.requests[0]
        assert request.path == "/a%20b.jpg?size=1"
        assert "image-pipeline" in str(request.header("user-agent"))
        assert "image/jpeg" in str(request.header("accept"))
        assert request.header("accept-encoding") == "identity"

    @pytest.mark.parametrize(
        "response",
        [
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\npic\r\n4\r\nture\r\n0\r\n\r\n",
            HEAD + b"\r\npicture",  # up to the end of the connection
            HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"picture"),
            b"HTTP/1.1 100 Continue\r\n\r\n" + answer(200, b"picture"),
            answer(200, b"picture") + b"and more than was announced",
        ],
        ids=["chunked", "until closed", "gzip", "100 Continue", "more than announced"],
    )
    def test_the_bytes_however_they_are_framed(self, response: bytes) -> None:
        with stranger(always(response)) as server:
            assert download(server.url()) == b"picture"

    def test_a_body_of_exactly_the_limit(self) -> None:
        with stranger(always(answer(200, b"x" * MAX_BYTES))) as server:
            assert len(download(server.url())) == MAX_BYTES

    def test_credentials_are_sent_and_percent_escapes_resolved(self) -> None:
        with stranger(always(answer(200, b"picture"))) as server:
            download(server.url().replace("http://", "http://user:p%40ss%E2%82%AC@"))
        assert server.requests[0].header("authorization") == "Basic dXNlcjpwQHNz4oKs"


class TestRedirects:
    def hops(self, number: int) -> Behaviour:
        def behave(_: Stranger, request: Request) -> Iterator[bytes]:
            hop = int(request.path.strip("/").partition("?")[0])
            yield answer(301, b"", f"Location: {hop + 1}") if hop < number else answer(200, b"picture")

        return behave

    def test_five_are_followed(self) -> None:
        with stranger(self.hops(5)) as server:
            assert download(server.url("/0")) == b"picture"

    def test_a_sixth_is_not(self) -> None:
        error = failure(self.hops(6), "/0")
        assert (type(error), error.code) == (PermanentError, "too_many_redirects")

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_all_kinds_are_followed(self, status: int) -> None:
        with (
            stranger(always(answer(200, b"picture"))) as there,
            stranger(always(answer(status, b"moved", f"Location: {there.url('/cafÃ©')}"))) as here,  # UTF-8 bytes
        ):
            assert download(here.url()) == b"picture"
        assert there.requests[0].path == "/caf%C3%A9"

    def test_credentials_stay_with_their_host(self) -> None:
        with stranger(always(answer(200, b"picture"))) as other:

            def behave(server: Stranger, request: Request) -> Iterator[bytes]:
                yield answer(302, b"", f"Location: {server.url('/2') if request.path == '/1' else other.url()}")

            with stranger(behave) as server:
                download(server.url("/1").replace("http://", "http://user:pass@"))
        assert [request.header("authorization") for request in server.requests] == ["Basic dXNlcjpwYXNz"] * 2
        assert other.requests[0].header("authorization") is None

    @pytest.mark.parametrize("location", ["http://[", "ftp://example.com/x", "http://", "http://a:b:c/", "\xff://\xfe"])
    def test_one_to_nowhere_is_a_clear_error(self, location: str) -> None:
        error = failure(always(answer(302, b"", f"Location: {location}")))
        assert isinstance(error, PermanentError)

    def test_the_total_time_includes_them(self) -> None:
        def behave(server: Stranger, _: Request) -> Iterator[bytes]:
            server.stopped.wait(0.25)
            yield answer(302, b"", "Location: /next")

        error = failure(behave)
        assert (type(error), error.code) == (PermanentError, "too_slow")


class TestStatuses:
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418, 451, 300, 304, 999])
    def test_for_good(self, status: int) -> None:
        error = failure(always(answer(status, b"no")))
        assert (type(error), error.code) == (PermanentError, f"http_{status}")

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 522])
    def test_for_now(self, status: int) -> None:
        error = failure(always(answer(status, b"no")))
        assert isinstance(error, RetryableError)
        assert (error.code, error.retry, error.retry_after) == (f"http_{status}", Retry.SOURCE, None)

    def test_the_sentence_is_ours(self) -> None:
        error = failure(always(b"HTTP/1.1 404 <script>\r\n\r\n"))
        assert error.message == "127.0.0.1/cover.jpg answered 404 Not Found."

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("7", 7),
            ("0", 0),
            ("86400", 900),
            ("9" * 5000, None),
            ("-5", None),
            ("soon", None),
            ("", None),
            (format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True), 900),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
            ("Wed, 21 Oct 2015 07:28:00 -0000", 0),
            ("Mon, 99 Foo 99999 00:00:00 GMT", None),
        ],
    )
    def test_retry_after(self, value: str, seconds: float | None) -> None:
        error = failure(always(answer(503, b"", f"Retry-After: {value}")))
        assert isinstance(error, RetryableError)
        assert error.retry_after == seconds

    def test_retry_after_a_date(self) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
        error = failure(always(answer(429, b"", f"Retry-After: {date}")))
        assert isinstance(error, RetryableError)
        assert error.retry_after == pytest.approx(300, abs=5)


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(10_000_000))
NESTED = gzip.compress(gzip.compress(bytes(100_000_000)))
DEFLATED = HEAD + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(b"")[:2]
NOTHING = b"\x00\x00\x00\xff\xff" * 50_000  # empty blocks of deflate


class TestBombs:
    @pytest.mark.parametrize(
        ("behave", "code"),
        [
            (endless(HEAD + b"\r\n", b"x" * 65536), "too_large"),
            (endless(CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"), "too_large"),
            (endless(HEAD + b"Content-Length: 5000000000\r\n\r\n", b"x" * 65536), "too_large"),
            (always(answer(200, BOMB, "Content-Encoding: gzip")), "too_large"),
            (always(answer(200, NESTED, "Content-Encoding: gzip, gzip")), "too_large"),
            (endless(DEFLATED, NOTHING), "too_large"),
            (endless(HEAD, b"X-Header: " + b"x" * 1000 + b"\r\n"), "unreachable"),
            (endless(HEAD + b"X-Header: ", b"x" * 65536), "unreachable"),
            (endless(b"", b"x" * 65536), "unreachable"),
            (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "too_large"),
            (endless(CHUNKED, b"f" * 65536), "incomplete"),
            (endless(CHUNKED + b"3\r\npic\r\n0\r\n", b"X-Trailer: x\r\n" * 1000), "too_large"),
            (endless(HEAD + b"\r\n", b"x", 0.05), "too_slow"),
            (endless(CHUNKED, b"1\r\nx\r\n", 0.05), "too_slow"),
            (endless(HEAD, b"X-Header: x\r\n", 0.05), "too_slow"),
            (endless(b"", b"H", 0.05), "too_slow"),
            (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05), "too_slow"),
            (endless(CHUNKED + b"0\r\n", b"x", 0.05), "too_slow"),
        ],
        ids=[
            "endless body",
            "endless chunks",
            "endless body with a length",
            "gzip bomb",
            "gzip bomb in gzip",
            "endless compressed nothing",
            "endless headers",
            "endless header",
            "endless status line",
            "endless 100 Continue",
            "endless chunk size",
            "endless trailer",
            "slow body",
            "slow chunks",
            "slow headers",
            "slow status line",
            "slow 100 Continue",
            "slow trailer",
        ],
    )
    def test_each_ends_within_its_limit(self, behave: Behaviour, code: str) -> None:
        assert failure(behave).code == code

    def test_what_is_too_large_or_too_slow_is_so_for_good(self) -> None:
        assert type(failure(endless(HEAD + b"\r\n", b"x" * 65536))) is PermanentError
        assert type(failure(endless(HEAD + b"\r\n", b"x", 0.05))) is PermanentError


class TestTrouble:
    @pytest.mark.parametrize(
        ("behave", "code"),
        [
            (stalled(), "timeout"),
            (stalled(HEAD), "timeout"),
            (stalled(HEAD + b"\r\npict"), "timeout"),
            (always(b""), "unreachable"),
            (always(b"\x00\x01\x02\x03\r\n\r\n"), "unreachable"),
            (always(HEAD + b"Content-Length: 100\r\n\r\npicture"), "incomplete"),
            (always(CHUNKED + b"3\r\npic\r\n"), "incomplete"),
            (always(CHUNKED + b"zz\r\npic\r\n"), "incomplete"),
        ],
        ids=["silence", "half headers", "half body", "hung up", "no HTTP", "short body", "short chunks", "bad chunk"],
    )
    def test_of_the_server_is_retried(self, behave: Behaviour, code: str) -> None:
        error = failure(behave)
        assert isinstance(error, RetryableError)
        assert (error.code, error.retry) == (code, Retry.SOURCE)

    def test_a_refused_connection_is_retried(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        with pytest.raises(RetryableError) as caught:
            download(f"http://127.0.0.1:{port}/x?{SECRET}")
        assert str(caught.value) == "unreachable: 127.0.0.1/x could not be reached."
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("seconds", [0, 0.2], ids=["at once", "after the total time"])
    def test_an_unknown_name_is_retried(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        def getaddrinfo(*args: object, **options: object) -> None:
            time.sleep(seconds)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        settings(monkeypatch, FETCH_TOTAL_TIMEOUT="0.1")
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with pytest.raises(RetryableError, match=r"^unreachable: nowhere\.example/x could not be reached\.$"):
            download("http://nowhere.example/x")

    def test_a_stalled_handshake_is_retried(self) -> None:
        with stranger(stalled()) as server, pytest.raises(RetryableError, match="timeout"):
            download(server.url().replace("http:", "https:"))

    @pytest.mark.parametrize("response", [answer(200), answer(204), HEAD + b"Content-Encoding: gzip\r\n\r\n"])
    def test_nothing_is_empty(self, response: bytes) -> None:
        error = failure(always(response))
        assert (type(error), error.code) == (PermanentError, "empty")

    def test_a_false_encoding_is_permanent(self) -> None:
        error = failure(always(answer(200, b"picture", "Content-Encoding: gzip")))
        assert (type(error), error.code) == (PermanentError, "bad_encoding")
