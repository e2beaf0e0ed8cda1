"""Postbacks: the request that a receiver gets, and the effect of its answers (contract, section 4)."""

from __future__ import annotations

import base64
import json
import logging
import re
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from standardwebhooks import Webhook

from pipeline.clients import lazy
from pipeline.errors import PermanentError, PipelineError, Retry, RetryableError
from pipeline.net.notifications import MAX_RESPONSE_BODY, postback
from pipeline.net.session import postback_session
from pipeline.setting_types import PUBLISHED_POSTBACK_SECRET
from tests.support.places import far_from_greenwich  # noqa: F401 - a fixture
from tests.support.untrusted_servers import (
    Behaviour,
    Remote,
    Request,
    always,
    answer,
    endless,
    remote,
    settings,
    stalled,
)

SECRET = "-".join(["not", "to", "be", "told"])  # This keeps it out of the source lines in tracebacks.
JOB = "3f1d7f3e-0a52-5a55-9a4b-3f0f6a4a9f10"
RESULT = {
    "title": "Mundo Cristão \U0001f399 \ud800 \ufffe",
    "image_url": "http://example.com/a?b",
    "image_url_info": None,
}


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8", POSTBACK_TIMEOUT="0.3")
    yield
    lazy.forget()


def failure(behave: Behaviour) -> PipelineError:
    """Return the error of a postback to a receiver with this behaviour."""
    with remote(behave) as server:
        started = time.monotonic()
        with pytest.raises(PipelineError) as caught:
            postback(JOB, server.url(f"/hook?{SECRET}").replace("http://", f"http://{SECRET}:{SECRET}@"), RESULT)
        assert time.monotonic() - started < 3
    text = "".join(traceback.format_exception(caught.value))
    assert SECRET not in text
    assert PUBLISHED_POSTBACK_SECRET not in text
    return caught.value


class TestRequest:
    def test_the_receiver_gets_the_result_and_the_secret_under_the_jobs_id(self) -> None:
        # Given a receiver
        with remote(always(answer(200))) as server:
            # When a result is posted
            postback(JOB, server.url("/hook?a=b"), RESULT)
        # Then the receiver gets exactly that, as JSON
        request = server.requests[0]
        assert request.head.startswith("POST /hook?a=b HTTP/1.1")
        assert request.header("content-type") == "application/json"
        assert request.header("webhook-id") == JOB
        assert json.loads(request.body) == RESULT | {"postback_secret_key": PUBLISHED_POSTBACK_SECRET}
        assert b'": ' not in request.body
        assert request.header("webhook-signature") is None

    def test_the_receiver_sees_the_agent_of_the_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings(monkeypatch, USER_AGENT="ExamplePodcasts/1.0 (+https://example.com/bot)")
        with remote(always(answer(200))) as server:
            postback(JOB, server.url(), RESULT)
        assert server.requests[0].header("user-agent") == "ExamplePodcasts/1.0 (+https://example.com/bot)"

    def test_the_secret_of_the_settings_replaces_the_messages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings(monkeypatch, POSTBACK_SECRET_KEY="ours")
        with remote(always(answer(200))) as server:
            postback(JOB, server.url(), RESULT | {"postback_secret_key": "theirs"})
        assert json.loads(server.requests[0].body)["postback_secret_key"] == "ours"

    def test_no_secret_is_sent_if_the_settings_say_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings(monkeypatch, POSTBACK_SECRET_KEY="none")
        with remote(always(answer(200))) as server:
            postback(JOB, server.url(), RESULT)
        assert json.loads(server.requests[0].body) == RESULT

    @pytest.mark.usefixtures("far_from_greenwich")
    @pytest.mark.parametrize("count", [1, 2])
    def test_receivers_can_verify_the_signature_by_each_secret(
        self, monkeypatch: pytest.MonkeyPatch, count: int
    ) -> None:
        secrets = ["whsec_" + base64.b64encode(byte * 32).decode() for byte in (b"n", b"o")][:count]
        settings(monkeypatch, POSTBACK_SIGNING_SECRET=" ".join(secrets))
        with remote(always(answer(200))) as server:
            postback(JOB, server.url(), RESULT)
        request = server.requests[0]
        headers = {name: str(request.header(name)) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")}
        assert len(headers["webhook-signature"].split()) == count
        for secret in secrets:
            Webhook(secret).verify(request.body, headers)
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 10

    def test_each_wait_has_the_timeout_of_the_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        session, asked = postback_session(), []
        request = session.request
        noted = lambda *what, **how: asked.append(how["timeout"]) or request(*what, **how)  # noqa: E731
        monkeypatch.setattr(session, "request", noted)
        with remote(always(answer(200))) as server:
            postback(JOB, server.url(), RESULT)
        assert asked == [0.3]

    def test_a_repeat_has_the_same_id_and_body(self) -> None:
        with remote(always(answer(200))) as server:
            postback(JOB, server.url(), RESULT)
            postback(JOB, server.url(), RESULT)
        first, second = server.requests
        assert (first.body, first.header("webhook-id")) == (second.body, second.header("webhook-id"))

    @pytest.mark.parametrize(
        "response",
        [
            answer(200, b"thanks", keep=True),
            answer(200, keep=True),
            answer(201, keep=True),
            b"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ],
        ids=["body", "no body", "created", "no content", "chunked"],
    )
    def test_a_connection_is_reused(self, response: bytes) -> None:
        with remote(always(response)) as server:
            for _ in range(3):
                postback(JOB, server.url(), RESULT)
        assert (len(server.requests), server.connections) == (3, 1)


class TestAnswer:
    @pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
    def test_2xx_is_success(self, status: int) -> None:
        with remote(always(answer(status))) as server:
            postback(JOB, server.url(), RESULT)

    @pytest.mark.parametrize("status", [301, 302, 304, 307, 308, 400, 401, 403, 404, 413, 422, 429, 500, 503, 999])
    def test_any_other_status_is_retried_and_no_redirect_followed(self, status: int) -> None:
        with remote(always(answer(200))) as other:
            error = failure(always(answer(status, b"", f"Location: {other.url()}")))
        assert isinstance(error, RetryableError)
        assert (error.code, error.retry, error.retry_after) == (f"http_{status}", Retry.POSTBACK, None)
        assert other.connections == 0

    def test_410_ends_it(self) -> None:
        error = failure(always(answer(410)))
        assert (type(error), error.code) == (PermanentError, "http_410")
        assert re.fullmatch(r"127\.0\.0\.1:\d+/hook answered 410 Gone\.", error.message)

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("7200", 7200),
            ("99999999", 86400),
            (timedelta(hours=20), 20 * 3600),
            (timedelta(days=2), 86400),
        ],
    )
    def test_retry_after_is_passed_on(self, value: str | timedelta, seconds: float) -> None:
        if isinstance(value, timedelta):
            value = format_datetime(datetime.now(UTC) + value, usegmt=True)
        error = failure(always(answer(500, b"", f"Retry-After: {value}")))
        assert isinstance(error, RetryableError)
        assert error.retry_after == pytest.approx(seconds, abs=60)

    def test_an_endless_body_after_a_success_is_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Given a receiver that sends as much of a body as is read, and then stalls
        settings(monkeypatch, POSTBACK_TIMEOUT="60")

        def behave(server: Remote, _: Request) -> Iterator[bytes]:
            yield b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * MAX_RESPONSE_BODY
            server.stopped.wait()

        # When a result is posted, then it succeeds at once, without waiting for the rest.
        with ThreadPoolExecutor(1) as pool, remote(behave) as server:
            pool.submit(postback, JOB, server.url(), RESULT).result(timeout=20)

    @pytest.mark.parametrize("body", [b"half", b""])
    def test_a_body_that_never_ends_does_not_undo_a_success(self, body: bytes) -> None:
        def behave(server: Remote, _: Request) -> Iterator[bytes]:
            yield b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + body
            server.stopped.wait()

        with remote(behave) as server:
            postback(JOB, server.url(), RESULT)

    @pytest.mark.parametrize(
        ("behave", "code"),
        [
            (stalled(), "timeout"),
            (endless(b"", b"H", 0.05), "timeout"),
            (endless(b"HTTP/1.1 200 OK\r\n", b"X-Header: " + b"x" * 60_000 + b"\r\n"), "unreachable"),
            (always(b""), "unreachable"),
        ],
        ids=["silence", "drip", "endless headers", "hung up"],
    )
    def test_a_receiver_that_does_not_answer_is_retried(self, behave: Behaviour, code: str) -> None:
        error = failure(behave)
        assert isinstance(error, RetryableError)
        assert (type(error), error.code, error.retry) == (RetryableError, code, Retry.POSTBACK)

    def test_a_receiver_that_does_not_read_is_retried(self) -> None:
        # Given a receiver that accepts, with buffers smaller than the result
        with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(RetryableError) as caught:
            postback(JOB, f"http://127.0.0.1:{server.getsockname()[1]}/hook", {"title": "x" * 20_000_000})
        assert caught.value.code == "timeout"

    def test_a_receiver_that_reads_slowly_is_retried(self) -> None:
        # Given a receiver where no single write times out, but the whole result takes 20 seconds
        done = threading.Event()

        def read(server: socket.socket) -> None:
            sock, _ = server.accept()
            with sock, suppress(OSError):
                while not done.wait(0.05):
                    sock.recv(50_000)

        with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            stack.callback(done.set)
            pool.submit(read, server)
            started = time.monotonic()
            with pytest.raises(RetryableError) as caught:
                postback(JOB, f"http://127.0.0.1:{server.getsockname()[1]}/hook", {"title": "x" * 20_000_000})
        assert time.monotonic() - started < 3
        assert caught.value.code == "timeout"

    def test_no_secret_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            failure(always(answer(500)))
        assert SECRET not in caplog.text
        assert PUBLISHED_POSTBACK_SECRET not in caplog.text
