"""Public addresses only, whatever the URL, DNS or a redirect says (contract, section 7)."""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
import urllib3.util.connection

from pipeline import clients
from pipeline.download import download
from pipeline.errors import PermanentError, PipelineError, Retry, RetryableError
from pipeline.exchange import exchange, shown
from pipeline.guard import Budget, is_allowed
from tests.unit.strangers import Stranger, always, answer, dns, settings, stranger

OK = answer(200, b"picture", keep=True)

# Hosts of a URL, literally.
BLOCKED_HOSTS = r"""
    127.0.0.1 127.1 127.0.1 127.255.255.254 2130706433 0x7f000001 0x7f.0.0.1 0x7f.1 0177.0.0.1 017700000001
    0x7f.0x0.0x0.0x1 00000177.0.0.1 %31%32%37.0.0.1 0 0x0 0.0.0.0 0.1.2.3
    10.0.0.1 10.1 172.16.0.1 172.31.255.255 192.168.1.1 192.168.257 100.64.0.1 100.100.100.200
    169.254.169.254 2852039166 0xa9fea9fe 0251.0376.0251.0376 169.254.170.2 168.63.129.16
    192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 203.0.113.7 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
    [::1] [::] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:8.8.8.8] [0:0:0:0:0:ffff:127.0.0.1]
    [::127.0.0.1] [::7f00:1] [::8.8.8.8] [::ffff:0:127.0.0.1] [64:ff9b::127.0.0.1] [64:ff9b::a9fe:a9fe]
    [64:ff9b:1::a00:1] [2002:7f00:1::] [2002:a9fe:a9fe::1] [2001:0:4136:e378:8000:63bf:3fff:fdd2]
    [fe80::1] [fec0::1] [fc00::1] [fd00:ec2::254] [ff02::1] [2001:db8::1] [3fff::1] [100::1] [5f00::1] [4000::1]
    u:p@127.0.0.1 8.8.8.8@127.0.0.1 8.8.8.8%2f@127.0.0.1 127.0.0.1#@8.8.8.8 127.0.0.1\@8.8.8.8 127.0.0.1:80\@8.8.8.8
"""

# What DNS says of a made-up name.
BLOCKED_ANSWERS = [
    ["127.0.0.1"],
    ["::1"],
    ["10.0.0.5", "fd00::5"],
    ["169.254.169.254"],
    ["::ffff:169.254.169.254"],
    ["64:ff9b::a00:1"],
    ["168.63.129.16"],
    ["fe80::1%lo"],
]

BAD_URLS = [
    "file:///etc/passwd",
    "ftp://example.com/x",
    "gopher://example.com/x",
    "http+unix://%2Frun%2Fx.sock/",
    "http:example.com",
    "//example.com/x",
    "http://",
    "",
    "http://[::1",
    "http://example.com:99999/",
    "http://example.com:80:80/",
    "http://127.0.0.1%00.example.com/",
    "http://exa mple.com/",
    f"http://{'a' * 64}.com/",
    "http://\ud800/",
    "http://\uff11\uff12\uff17.0.0.1/",  # full-width digits
    "http://\u2460\u2461\u2466.0.0.1/",  # circled digits
]


@pytest.fixture(autouse=True)
def _loopback_is_allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.1/32", FETCH_TIMEOUT="2", FETCH_TOTAL_TIMEOUT="5")
    yield
    clients.forget()


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses to which a connection was tried; none is made."""
    tried: list[str] = []

    def create_connection(address: tuple[str, int], *args: object, **options: object) -> None:
        tried.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(urllib3.util.connection, "create_connection", create_connection)
    return tried


def failure(url: str) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        download(url)
    return caught.value


class TestAddresses:
    @pytest.mark.parametrize("host", BLOCKED_HOSTS.split())
    def test_a_spelling_of_an_address_that_is_not_public_is_blocked(
        self, monkeypatch: pytest.MonkeyPatch, attempts: list[str], host: str
    ) -> None:
        # Given no exceptions
        settings(monkeypatch, ALLOWED_NETWORKS="")
        # When a URL names the host
        error = failure(f"http://{host}/x?token=1")
        # Then no connection is tried
        assert (type(error), error.code, attempts) == (PermanentError, "blocked_address", [])

    @pytest.mark.parametrize("addresses", BLOCKED_ANSWERS, ids=" ".join)
    def test_a_name_that_leads_nowhere_public_is_blocked(
        self, monkeypatch: pytest.MonkeyPatch, attempts: list[str], addresses: list[str]
    ) -> None:
        settings(monkeypatch, ALLOWED_NETWORKS="")
        dns(monkeypatch, {"trick.example": [addresses]})

        error = failure("https://trick.example/x?token=1")

        assert (error.code, attempts) == ("blocked_address", [])
        assert error.message == "trick.example does not lead to a public address."

    @pytest.mark.parametrize("url", BAD_URLS)
    def test_what_is_no_http_url_is_refused(self, attempts: list[str], url: str) -> None:
        error = failure(url)

        assert (type(error), error.code, attempts) == (PermanentError, "bad_url", [])

    @pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::1"])
    def test_a_public_address_is_allowed(self, address: str) -> None:
        assert is_allowed(ipaddress.ip_address(address))

    @pytest.mark.parametrize(
        ("networks", "address", "allowed"),
        [
            ("10.0.0.0/8,fd00::/8", "10.2.3.4", True),
            ("10.0.0.0/8,fd00::/8", "fd00::1", True),
            ("10.0.0.0/8,fd00::/8", "11.0.0.1", True),
            ("10.0.0.0/8,fd00::/8", "192.168.0.1", False),
            ("10.0.0.0/8,fd00::/8", "::ffff:10.2.3.4", False),
            ("169.254.169.254/32", "169.254.169.253", False),
        ],
    )
    def test_allowed_networks_open_exceptions(
        self, monkeypatch: pytest.MonkeyPatch, networks: str, address: str, allowed: bool
    ) -> None:
        settings(monkeypatch, ALLOWED_NETWORKS=networks)

        assert is_allowed(ipaddress.ip_address(address)) is allowed


class TestPinning:
    def test_a_second_answer_of_dns_is_never_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Given a name that is allowed when it is checked, and would be private when it is asked again
        asked = dns(monkeypatch, {"rebind.example": [["127.0.0.1"], ["127.0.0.2"]]})
        with stranger(always(OK)) as server:
            # When it is fetched
            body = download(server.url(host="rebind.example"))
        # Then the connection went to the address that was checked, after one question
        assert (body, asked, server.connections) == (b"picture", ["rebind.example"], 1)

    def test_the_private_one_of_several_addresses_is_never_tried(
        self, monkeypatch: pytest.MonkeyPatch, attempts: list[str]
    ) -> None:
        dns(monkeypatch, {"mixed.example": [["10.0.0.1", "8.8.8.8", "::1", "9.9.9.9"]]})

        error = failure("http://mixed.example/")

        assert (error.code, attempts) == ("unreachable", ["8.8.8.8", "9.9.9.9"])

    def test_the_next_address_is_tried_when_the_first_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8")
        dns(monkeypatch, {"two.example": [["127.0.0.3", "127.0.0.1"]]})
        with stranger(always(OK)) as server:  # it listens on 127.0.0.1 only
            assert download(server.url(host="two.example")) == b"picture"

    def test_a_name_with_a_thousand_addresses_is_no_scanner(
        self, monkeypatch: pytest.MonkeyPatch, attempts: list[str]
    ) -> None:
        dns(monkeypatch, {"many.example": [[f"8.8.{i // 256}.{i % 256}" for i in range(1000)]]})

        failure("http://many.example/")

        assert len(attempts) == 8

    def test_every_connection_after_the_first_is_checked_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Given a name that turns private after the first download, whose connection was closed
        dns(monkeypatch, {"later.example": [["127.0.0.1"], ["127.0.0.2"]]})
        with stranger(always(answer(200, b"picture"))) as server:
            download(server.url(host="later.example"))
            # When it is fetched again
            error = failure(server.url(host="later.example"))
        # Then it is blocked
        assert (error.code, server.connections) == ("blocked_address", 1)

    @pytest.mark.parametrize(
        "target",
        [
            "http://127.0.0.2:{port}/",
            "http://169.254.169.254/latest/meta-data/",
            "//[::1]:{port}/",
            "https://internal.example/",
            "http://0x7f.2:{port}/",
            "\\\\127.0.0.2:{port}/",
            "http:\\\\127.0.0.2:{port}/",
            "file:///etc/passwd",
        ],
    )
    def test_a_redirect_to_a_blocked_address_is_not_followed(
        self, monkeypatch: pytest.MonkeyPatch, target: str
    ) -> None:
        dns(monkeypatch, {"internal.example": [["10.0.0.1"]]})

        with stranger(always(OK), host="127.0.0.2") as inside:
            location = f"Location: {target.format(port=inside.port)}"
            with stranger(always(answer(302, b"", location))) as outside:
                error = failure(outside.url())

        assert type(error) is PermanentError
        assert error.code in {"blocked_address", "bad_url", "too_many_redirects"}
        assert inside.connections == 0


class TestTLS:
    @pytest.fixture
    def authority(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
        """A throwaway authority that the session trusts."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setattr(clients.http(), "verify", str(tmp_path / "ca.pem"))
        return authority

    def context(self, authority: trustme.CA, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(context)
        return context

    def test_the_name_is_verified_and_sent_though_the_address_is_pinned(
        self, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA
    ) -> None:
        dns(monkeypatch, {"a.example": [["127.0.0.1"]]})
        with stranger(always(OK), tls=self.context(authority, "a.example")) as server:
            assert download(server.url(host="a.example")) == b"picture"
        assert server.server_names == ["a.example"]
        assert server.requests[0].header("host") == f"a.example:{server.port}"

    def test_a_connection_to_one_name_never_serves_another_at_the_same_address(
        self, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA
    ) -> None:
        # Given two names at one address, and an open connection that was verified for the first
        dns(monkeypatch, {"a.example": [["127.0.0.1"]], "b.example": [["127.0.0.1"]]})
        with stranger(always(OK), tls=self.context(authority, "a.example")) as server:
            download(server.url(host="a.example"))
            download(server.url(host="a.example"))
            assert server.connections == 1
            # When the second is fetched
            error = failure(server.url(host="b.example"))
        # Then a new connection is made, and its certificate refused
        assert (type(error), error.code, server.connections) == (RetryableError, "tls_error", 2)

    def test_an_unknown_authority_is_refused(self) -> None:
        with stranger(always(OK), tls=self.context(trustme.CA(), "127.0.0.1")) as server:
            error = failure(server.url("/x?token=1"))
        assert error.code == "tls_error"
        assert "token" not in str(error)
        assert server.requests == []


class TestSession:
    def test_proxies_and_netrc_of_the_environment_are_not_obeyed(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        # Given a proxy in every variable, and a password for the host in .netrc
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
        with stranger(always(answer(200, b"proxy"))) as proxy, stranger(always(OK)) as server:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url("/"))
            monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
            # When something is fetched
            body = download(server.url())
        # Then it comes from the server itself, which was told no password
        assert (body, proxy.connections) == (b"picture", 0)
        assert server.requests[0].header("authorization") is None

    def test_cookies_are_not_kept(self) -> None:
        with stranger(always(answer(200, b"picture", "Set-Cookie: id=1; Path=/", keep=True))) as server:
            download(server.url())
            download(server.url())
        assert [request.header("cookie") for request in server.requests] == [None, None]

    def test_many_threads_share_it_and_connections_are_used_again(self) -> None:
        with stranger(always(OK)) as server, ThreadPoolExecutor(8) as pool:
            bodies = list(pool.map(lambda _: download(server.url()), range(200)))
        assert bodies == [b"picture"] * 200
        assert server.connections <= 8

    def test_nothing_is_retried(self) -> None:
        with stranger(always(b"")) as server:
            assert failure(server.url()).code == "unreachable"
        assert server.connections == 1

    def test_a_redirect_is_never_followed_nor_its_body_read(self) -> None:
        def behave(server: Stranger, _: object) -> Iterator[bytes]:
            yield b"HTTP/1.1 302 Found\r\nLocation: /there\r\n\r\n"
            while not server.stopped.is_set():
                yield b"x" * 65536

        budget = Budget(seconds=5, wire_bytes=2**20)
        with stranger(behave) as server, exchange(server.url(), Retry.SOURCE, budget):
            response = clients.http().get(server.url(), stream=True, allow_redirects=True)
            response.close()
        assert response.status_code == 302
        assert (len(server.requests), budget.overdrawn) == (1, False)

    def test_it_does_nothing_outside_of_an_exchange(self) -> None:
        with stranger(always(OK)) as server, pytest.raises(LookupError):
            clients.http().get(server.url())
        assert server.connections == 0

    def test_ipv6_works(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings(monkeypatch, ALLOWED_NETWORKS="::1")
        with stranger(always(OK), host="::1") as server:
            assert download(server.url(host="[::1]")) == b"picture"
        assert server.requests[0].header("host") == f"[::1]:{server.port}"

    def test_no_query_is_logged_when_headers_are_malformed(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO), stranger(always(b"HTTP/1.1 200 OK\r\nbad header\r\n\r\nx")) as server:
            download(server.url("/x?token=1"))
        assert "token" not in caplog.text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://user:pass@Example.com:8443/a/b.jpg?token=1#part", "example.com/a/b.jpg"),
        ("https://example.com/@name/b.jpg", "example.com/@name/b.jpg"),
        ("https://example.com", "example.com"),
        ("http://[::1]/x", "::1/x"),
        ("http://user:pa/ss@example.com/x", "the URL"),
        ("http://user:12/34@example.com/x", "the URL"),
        ("user:pass@example.com/x", "the URL"),
        ("http://example.com/\x1b[31m", "example.com/?[31m"),
        ("http://[", "the URL"),
        ("", "the URL"),
    ],
)
def test_a_url_is_shown_by_host_and_path_only(url: str, text: str) -> None:
    assert shown(url) == text
