"""The sessions for untrusted URLs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import cookiejar
from pathlib import Path

import pytest
import requests

from pipeline.errors import PipelineError
from pipeline.net.session import fetch_session
from tests.support.untrusted_servers import (
    always,
    answer,
    download,
    failed_download,
    remote,
    settings,
)

OK = answer(200, b"picture", keep=True)


pytestmark = pytest.mark.usefixtures("loopback_is_allowed")


class TestSession:
    @pytest.mark.parametrize(
        ("name", "scheme"),
        [
            (name, scheme)
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
            for scheme in ("http", "https")
            if scheme == name.lower().partition("_")[0] or "all" in name.lower()
        ],
    )
    def test_proxies_in_the_environment_are_ignored(
        self, monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
    ) -> None:
        # Given a proxy in the environment, which requests alone would use
        with (
            remote(always(answer(502))) as proxy,
            remote(always(OK), speaks_first=scheme == "https") as server,
        ):
            monkeypatch.setenv("no_proxy", "")
            monkeypatch.setenv(name, proxy.url("/"))
            url = server.url().replace("http:", f"{scheme}:")
            with suppress(requests.RequestException):
                requests.get(url, timeout=5)
            assert (len(proxy.requests), server.connections) == (1, 0)
            # When a URL is fetched
            with suppress(PipelineError):
                download(url)
            # Then the answer comes from the server itself
            assert (len(proxy.requests), server.connections > 0) == (1, True)

    def test_passwords_in_netrc_are_not_sent(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password secret\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        with remote(always(OK)) as server:
            download(server.url())
            requests.get(server.url(), timeout=5)
        # This shows that requests alone would have found the password.
        assert [request.header("authorization") for request in server.requests] == [None, "Basic dXNlcjpzZWNyZXQ="]

    def test_cookies_are_not_kept(self) -> None:
        with remote(always(answer(200, b"picture", "Set-Cookie: id=1; Path=/", keep=True))) as server:
            download(server.url())
            download(server.url())
        assert [request.header("cookie") for request in server.requests] == [None, None]

    def test_cookies_are_not_even_parsed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Given headers that would take seconds to parse as cookies
        parsed: list[object] = []
        monkeypatch.setattr(cookiejar, "split_header_words", parsed.append)
        bomb = ["Set-Cookie: a=b", *["Set-Cookie2: " + "a;" * 30_000] * 3]
        with remote(always(answer(200, b"picture", *bomb))) as server:
            # When the answer is read
            assert download(server.url()) == b"picture"
        # Then they were not parsed
        assert parsed == []

    def test_many_threads_share_it_and_connections_are_reused(self) -> None:
        fetch_session()  # Threads that all start at once could create it more than once.
        with remote(always(OK)) as server, ThreadPoolExecutor(8) as pool:
            bodies = list(pool.map(lambda _: download(server.url()), range(200)))
        assert bodies == [b"picture"] * 200
        assert server.connections <= 8

    def test_nothing_is_retried(self) -> None:
        with remote(always(b"")) as server:
            assert failed_download(server.url()).code == "unreachable"
        assert server.connections == 1

    def test_it_does_nothing_outside_of_a_request(self) -> None:
        with remote(always(OK)) as server, pytest.raises(LookupError):
            fetch_session().request("GET", server.url(), timeout=5)
        assert server.connections == 0

    def test_ipv6_works(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings(monkeypatch, ALLOWED_NETWORKS="::1")
        with remote(always(OK), host="::1") as server:
            assert download(server.url(host="[::1]")) == b"picture"
        assert server.requests[0].header("host") == f"[::1]:{server.port}"
