"""Downloads from untrusted servers: every limit ends them, every failure has its code."""

from __future__ import annotations

import gzip
import logging
import re
import socket
import time
import traceback
from collections.abc import Iterator

import pytest

from pipeline.clients import lazy
from pipeline.errors import PermanentError, PipelineError, Retry, RetryableError
from tests.support.untrusted_servers import (
    Behaviour,
    Remote,
    Request,
    always,
    answer,
    dns,
    download,
    internet,
    remote,
    settings,
)

MAX_BYTES = 100_000
SECRET = "-".join(["not", "to", "be", "told"])  # This keeps it out of the source lines in tracebacks.
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
    lazy.forget()


def failure(behave: Behaviour, path: str = "/cover.jpg") -> PipelineError:
    """Return the error of a download from a server with this behaviour; it must end within the limits."""
    with remote(behave) as server:
        started = time.monotonic()
        with pytest.raises(PipelineError) as caught:
            download(server.url(f"{path}?{SECRET}").replace("http://", f"http://{SECRET}:{SECRET}@"))
        assert time.monotonic() - started < 3
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return caught.value


class TestBody:
    def test_the_request_identifies_us_and_the_body_is_returned(self) -> None:
        with remote(always(answer(200, b"picture"))) as server:
            assert download(server.url("/a%20b.jpg?size=1#part")) == b"picture"
        request = server.requests[0]
        assert request.path == "/a%20b.jpg?size=1"
        assert request.header("user-agent") == "Mozilla/5.0 (compatible; image-pipeline)"
        assert request.header("accept") == "image/jpeg, image/png, image/gif;q=0.9, image/*;q=0.8, */*;q=0.5"
        assert request.header("accept-encoding") == "identity"

    def test_the_host_sees_the_agent_of_the_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings(monkeypatch, USER_AGENT="ExamplePodcasts/1.0 (+https://example.com/bot)")
        with remote(always(answer(200, b"picture"))) as server:
            download(server.url())
        assert server.requests[0].header("user-agent") == "ExamplePodcasts/1.0 (+https://example.com/bot)"

    @pytest.mark.parametrize(
        "response",
        [
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\npic\r\n4\r\nture\r\n0\r\n\r\n",
            HEAD + b"\r\npicture",  # Until the end of the connection.
            HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"picture"),
            b"HTTP/1.1 100 Continue\r\n\r\n" + answer(200, b"picture"),
            b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" * 3 + answer(200, b"picture"),
            answer(200, b"picture", "Content-Encoding: image/jpeg"),
            HEAD + b"Content-Length: -1\r\n\r\npicture",
            answer(200, b"picture") + b"and more than was announced",
        ],
        ids=["chunked", "until closed", "gzip", "100 Continue", "103", "no encoding", "negative length", "more"],
    )
    def test_the_body_is_returned_in_any_framing(self, response: bytes) -> None:
        with remote(always(response)) as server:
            assert download(server.url()) == b"picture"

    def test_a_body_may_be_as_large_as_the_limit(self) -> None:
        with remote(always(answer(200, b"x" * MAX_BYTES))) as server:
            assert len(download(server.url())) == MAX_BYTES

    def test_credentials_are_sent_and_percent_escapes_resolved(self) -> None:
        with remote(always(answer(200, b"picture"))) as server:
            download(server.url().replace("http://", "http://user:p%40ss%E2%82%AC@"))
        assert server.requests[0].header("authorization") == "Basic dXNlcjpwQHNz4oKs"


class TestRedirects:
    def hops(self, number: int) -> Behaviour:
        def behave(_: Remote, request: Request) -> Iterator[bytes]:
            hop = int(request.path.strip("/").partition("?")[0])
            yield answer(301, b"", f"Location: {hop + 1}") if hop < number else answer(200, b"picture")

        return behave

    def test_five_are_followed(self) -> None:
        with remote(self.hops(5)) as server:
            assert download(server.url("/0")) == b"picture"

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_all_redirect_statuses_are_followed(self, status: int) -> None:
        with (
            remote(always(answer(200, b"picture"))) as there,
            remote(always(answer(status, b"moved", f"Location: {there.url('/cafÃ©')}"))) as here,  # UTF-8 bytes.
        ):
            assert download(here.url()) == b"picture"
        assert there.requests[0].path == "/caf%C3%A9"

    @pytest.mark.parametrize(
        ("location", "sent"),
        [
            ("/x", True),
            ("http://A.example/x", True),
            ("http://a.example:80/x", True),
            ("//a.example/x", True),
            ("http://b.example/x", False),
            ("http://b.a.example/x", False),
            ("http://a.example:8080/x", False),
            ("http://a.example.b.example/x", False),
            (r"http://b.example\@a.example/x", False),
            (r"http://b.example\.a.example/x", False),
            (r"http://b.example\@user:pass@a.example/x", False),
            ("http://b.example?@a.example/x", False),
            ("http://b.example#@a.example/x", False),
        ],
    )
    def test_credentials_belong_to_the_name_of_the_connection(
        self, monkeypatch: pytest.MonkeyPatch, location: str, sent: bool
    ) -> None:
        # Given a server with two names; the first needs credentials and redirects
        def behave(_: Remote, request: Request) -> Iterator[bytes]:
            yield answer(302, b"", f"Location: {location}") if request.path == "/start" else answer(200, b"picture")

        names = ["a.example", "b.example", "b.a.example", "a.example.b.example"]
        dns(monkeypatch, {name: [["8.8.8.8"]] for name in names})
        with remote(behave) as server:
            internet(monkeypatch, {"8.8.8.8": server})
            # When the redirect is followed
            download("http://user:pass@a.example/start")
        # Then only the first name gets the credentials, however the second is written
        start, end = server.requests
        assert start.header("authorization") == "Basic dXNlcjpwYXNz"
        assert (end.header("authorization") is not None) is sent
        assert (str(end.header("host")).lower() in {"a.example", "a.example:80"}) is sent

    def test_credentials_in_a_location_go_to_its_host(self) -> None:
        with remote(always(answer(200, b"picture"))) as other:
            location = other.url().replace("http://", "http://other:word@")
            with remote(always(answer(302, b"", f"Location: {location}"))) as server:
                download(server.url().replace("http://", "http://user:pass@"))
        assert other.requests[0].header("authorization") == "Basic b3RoZXI6d29yZA=="

    @pytest.mark.parametrize("location", ["http://[", "ftp://example.com/x", "http://", "http://a:b:c/", "\xff://\xfe"])
    def test_a_redirect_without_target_is_a_clear_error(self, location: str) -> None:
        error = failure(always(answer(302, b"", f"Location: {location}")))
        assert isinstance(error, PermanentError)


class TestStatuses:
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418, 451, 300, 304, 999])
    def test_permanent_statuses(self, status: int) -> None:
        error = failure(always(answer(status, b"no")))
        assert (type(error), error.code) == (PermanentError, f"http_{status}")

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 522])
    def test_temporary_statuses(self, status: int) -> None:
        error = failure(always(answer(status, b"no")))
        assert isinstance(error, RetryableError)
        assert (error.code, error.retry, error.retry_after) == (f"http_{status}", Retry.SOURCE, None)

    def test_the_message_is_ours(self) -> None:
        error = failure(always(b"HTTP/1.1 404 <script>\r\n\r\n"))
        assert re.fullmatch(r"127\.0\.0\.1:\d+/cover\.jpg answered 404 Not Found\.", error.message)

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
            ("Wed, 21 Oct 2099 07:28:00 GMT", 900),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
            ("Wed, 21 Oct 2015 07:28:00 -0000", 0),
            ("Mon, 99 Foo 99999 00:00:00 GMT", None),
            ("Wed, 21 Oct 2015 07:28:00 +99999999999999", None),
        ],
    )
    def test_retry_after(self, value: str, seconds: float | None) -> None:
        error = failure(always(answer(503, b"", f"Retry-After: {value}")))
        assert isinstance(error, RetryableError)
        assert error.retry_after == seconds


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class TestHaste:
    """A hasty download has a quarter of the time; the settings of these tests leave it next to none."""

    @pytest.mark.parametrize("total", [True, False])
    def test_it_ends_as_a_timeout_that_a_patient_attempt_survives(
        self, monkeypatch: pytest.MonkeyPatch, total: bool
    ) -> None:
        # Given a server that needs more than a quarter of the seconds for a wait, or for all waits
        limits = {"FETCH_TIMEOUT": "10", "FETCH_TOTAL_TIMEOUT": "0.4"} if total else {"FETCH_TIMEOUT": "0.4"}
        settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8", **limits)

        def late(server: Remote, _: Request) -> Iterator[bytes]:
            server.stopped.wait(0.2)
            yield answer(200, b"picture")

        with remote(late) as server:
            # Then a hasty download may be retried, and a patient one succeeds.
            with pytest.raises(RetryableError, match="timeout"):
                download(server.url(), hasty=True)
            assert download(server.url()) == b"picture"

    def test_a_host_that_drips_is_given_up_long_before_its_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Given a server that sends a byte now and then, and limits that it never reaches
        settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8", FETCH_TIMEOUT="2", FETCH_TOTAL_TIMEOUT="3600")
        body = b"picture" * 4

        def dripping(server: Remote, _: Request) -> Iterator[bytes]:
            yield HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
            for byte in body:
                server.stopped.wait(0.05)
                yield bytes([byte])

        with remote(dripping) as server:
            # Then a hasty download is over before it has the body, and a patient one gets it.
            with pytest.raises(RetryableError, match="timeout"):
                download(server.url(), hasty=True)
            assert download(server.url()) == body


class TestErrors:
    @pytest.mark.parametrize(
        ("behave", "code"),
        [
            (always(b""), "unreachable"),
            (always(b"\x00\x01\x02\x03\r\n\r\n"), "unreachable"),
            (always(HEAD + b"Content-Length: 100\r\n\r\npicture"), "incomplete"),
            (always(CHUNKED + b"3\r\npic\r\n"), "incomplete"),
            (always(CHUNKED + b"zz\r\npic\r\n"), "incomplete"),
            (always(CHUNKED + b"-5\r\npic\r\n"), "incomplete"),
            (always(HEAD + b"Content-Length: 7\r\nContent-Length: 8\r\n\r\npicture"), "unreachable"),
        ],
        ids=[
            "hung up",
            "no HTTP",
            "short body",
            "short chunks",
            "bad chunk",
            "negative chunk",
            "two lengths",
        ],
    )
    def test_server_errors_are_retried(self, behave: Behaviour, code: str) -> None:
        error = failure(behave)
        assert isinstance(error, RetryableError)
        assert (error.code, error.retry) == (code, Retry.SOURCE)

    def test_a_refused_connection_is_retried(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        with pytest.raises(RetryableError) as caught:
            download(f"http://127.0.0.1:{port}/x?{SECRET}")
        assert str(caught.value) == f"unreachable: 127.0.0.1:{port}/x could not be reached."
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    def test_an_unknown_name_is_retried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def getaddrinfo(*args: object, **options: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with pytest.raises(RetryableError, match=r"^unreachable: nowhere\.example/x could not be reached\.$"):
            download("http://nowhere.example/x")

    @pytest.mark.parametrize("response", [answer(200), answer(204), HEAD + b"Content-Encoding: gzip\r\n\r\n"])
    def test_an_empty_body_is_refused(self, response: bytes) -> None:
        error = failure(always(response))
        assert (type(error), error.code) == (PermanentError, "empty")

    def test_no_secret_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            caplog.set_level(logging.DEBUG, "pipeline")
            failure(always(HEAD + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\nbad header\r\n\r\nzz"))
            failure(always(answer(302, b"", f"Location: http://{SECRET}:{SECRET}@[/?{SECRET}")))
        assert SECRET not in caplog.text

    def test_a_wrong_encoding_is_permanent(self) -> None:
        error = failure(always(answer(200, b"picture", "Content-Encoding: gzip")))
        assert (type(error), error.code) == (PermanentError, "bad_encoding")
