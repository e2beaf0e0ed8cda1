"""Only public addresses are reached, whatever the URL, DNS or a redirect contains (contract, section 7)."""

from __future__ import annotations

import ipaddress
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from pipeline.errors import NoConnection
from pipeline.net.guard import NOT_PUBLIC
from pipeline.net.session import fetch_session
from tests.support.untrusted_servers import (
    Remote,
    always,
    answer,
    dns,
    download,
    failed_download,
    internet,
    remote,
    settings,
)
from tests.unit.net.test_reach import is_allowed

OK = answer(200, b"picture", keep=True)


@pytest.fixture(autouse=True)
def _loopback(loopback_is_allowed: None) -> None:
    """Allow it in all tests, before the fixtures of a class."""


Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Ranges that changed in https://github.com/python/cpython/issues/113171.
DOUBTED = [
    *("192.0.0.0/29", "192.0.0.9/32", "192.0.0.10/32", "192.0.0.170/31", "255.255.255.255/32", "::1/128", "::/128"),
    *("::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/32", "2001:1::1/128"),
    *("2001:1::2/128", "2001:1::3/128", "2001:2::/48", "2001:3::/32", "2001:4:112::/48", "2001:10::/28"),
    *("2001:20::/28", "2001:30::/28", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
]


class TestAddresses:
    @pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::1"])
    def test_a_public_address_is_allowed(self, address: str) -> None:
        assert is_allowed(ipaddress.ip_address(address))

    @pytest.mark.parametrize("network", NOT_PUBLIC, ids=str)
    def test_addresses_of_private_networks_are_refused(self, network: Network) -> None:
        addresses = (network[0], network[network.num_addresses // 2], network[-1])
        assert not any(map(is_allowed, addresses))

    def test_addresses_that_python_does_not_consider_public_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings(monkeypatch, ALLOWED_NETWORKS="")
        # Given the ends of all networks that any Python version disagreed about, and their neighbours
        networks = [*NOT_PUBLIC, *map(ipaddress.ip_network, DOUBTED)]
        ends = [int(end) + step for network in networks for end in (network[0], network[-1]) for step in (-1, 0, 1)]
        found = [ipaddress.IPv4Address(end) for end in ends if 0 <= end < 2**32]
        found += [ipaddress.IPv6Address(end) for end in ends if 2**32 <= end < 2**128]
        # Then all that this Python does not consider public are refused, and some are public
        assert [each for each in found if is_allowed(each) and (not each.is_global or each.is_multicast)] == []
        assert sum(map(is_allowed, found)) > 20


class TestPinning:
    def test_a_name_is_resolved_only_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Given a name that is public when it is checked, and private when it is resolved again
        asked = dns(monkeypatch, {"rebind.example": [["127.0.0.1"], ["127.0.0.2"]]})
        with remote(always(OK)) as server:
            # When it is fetched
            body = download(server.url(host="rebind.example"))
        # Then the connection goes to the checked address, after one query
        assert (body, asked, server.connections) == (b"picture", ["rebind.example"], 1)

    def test_a_connection_goes_to_the_address_and_names_the_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Given a name
        dns(monkeypatch, {"a.example": [["8.8.8.8"]]})
        with remote(always(OK)) as server:
            reached = internet(monkeypatch, {"8.8.8.8": server})
            # When it is fetched
            download("http://a.example/x")
        # Then the socket goes to the address, and the request names the host
        assert reached == ["8.8.8.8"]
        assert server.requests[0].header("host") == "a.example"

    def test_the_private_address_among_several_is_never_tried(
        self, monkeypatch: pytest.MonkeyPatch, attempts: list[str]
    ) -> None:
        dns(monkeypatch, {"mixed.example": [["10.0.0.1", "8.8.8.8", "::1", "9.9.9.9"]]})

        error = failed_download("http://mixed.example/")

        assert (error.code, attempts) == ("unreachable", ["8.8.8.8", "9.9.9.9"])

    def test_the_next_address_is_tried_when_the_first_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8")
        dns(monkeypatch, {"two.example": [["127.0.0.3", "127.0.0.1"]]})
        with remote(always(OK)) as server:  # The server listens on 127.0.0.1 only.
            assert download(server.url(host="two.example")) == b"picture"

    def test_a_name_with_a_thousand_addresses_cannot_scan_a_network(
        self, monkeypatch: pytest.MonkeyPatch, attempts: list[str]
    ) -> None:
        dns(monkeypatch, {"many.example": [[f"8.8.{i // 256}.{i % 256}" for i in range(1000)]]})

        failed_download("http://many.example/")

        assert len(attempts) == 8

    def test_every_new_connection_is_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Given a name that becomes private after the first download, whose connection was closed
        dns(monkeypatch, {"later.example": [["127.0.0.1"], ["127.0.0.2"]]})
        with remote(always(answer(200, b"picture"))) as server:
            download(server.url(host="later.example"))
            # When it is fetched again
            error = failed_download(server.url(host="later.example"))
        # Then it is blocked
        assert (error.code, server.connections) == ("blocked_address", 1)


class TestAllowedNetworks:
    """Here every address is reached as it is: the servers listen on 127.0.0.2 and 127.0.0.3."""

    @pytest.fixture(autouse=True)
    def _one_exception(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.2/32")

    @pytest.fixture
    def closed(self) -> Iterator[Remote]:
        with remote(always(OK), host="127.0.0.3") as server:
            yield server
        assert server.connections == 0

    @pytest.mark.parametrize("host", ["127.0.0.3", "[::ffff:127.0.0.3]", "[::ffff:127.0.0.2]", "closed.example"])
    def test_addresses_outside_are_not_reached(
        self, monkeypatch: pytest.MonkeyPatch, closed: Remote, host: str
    ) -> None:
        dns(monkeypatch, {"closed.example": [["127.0.0.3"]]})
        assert failed_download(closed.url(host=host)).code == "blocked_address"

    def test_a_server_in_them_cannot_redirect_outside(self, closed: Remote) -> None:
        with remote(always(answer(302, b"", f"Location: {closed.url(host='127.0.0.3')}")), host="127.0.0.2") as server:
            assert failed_download(server.url(host="127.0.0.2")).code == "blocked_address"


class TestTLS:
    @pytest.fixture
    def authority(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
        """Make a throwaway authority that the session trusts."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setattr(fetch_session(), "verify", str(tmp_path / "ca.pem"))
        return authority

    def context(self, authority: trustme.CA, *names: str, **made: datetime) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names, **made).configure_cert(context)
        return context

    def test_the_name_is_verified_and_sent_though_the_address_is_pinned(
        self, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA
    ) -> None:
        dns(monkeypatch, {"a.example": [["127.0.0.1"]]})
        with remote(always(OK), tls=self.context(authority, "a.example")) as server:
            assert download(server.url(host="a.example")) == b"picture"
        assert server.server_names == ["a.example"]
        assert server.requests[0].header("host") == f"a.example:{server.port}"

    def test_a_connection_to_one_name_never_serves_another_at_the_same_address(
        self, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA
    ) -> None:
        # Given two names at one address, and an open connection that was verified for the first
        dns(monkeypatch, {"a.example": [["127.0.0.1"]], "b.example": [["127.0.0.1"]]})
        with remote(always(OK), tls=self.context(authority, "a.example")) as server:
            download(server.url(host="a.example"))
            download(server.url(host="a.example"))
            assert server.connections == 1
            # When a URL of the second is fetched
            error = failed_download(server.url(host="b.example"))
        # Then a new connection is made, and its certificate is refused
        assert (type(error), error.code, server.connections) == (NoConnection, "tls_error", 2)

    @pytest.mark.parametrize(
        ("names", "made"),
        [
            (["b.example"], {}),
            (["*.a.example"], {}),
            (["127.0.0.1"], {}),
            (
                ["a.example"],
                {"not_after": datetime(2020, 1, 2, tzinfo=UTC), "not_before": datetime(2020, 1, 1, tzinfo=UTC)},
            ),
            (["a.example"], {"not_before": datetime.now(UTC) + timedelta(days=1)}),
        ],
        ids=["another name", "names below", "the address alone", "expired", "not valid yet"],
    )
    def test_a_false_certificate_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, names: list[str], made: dict[str, datetime]
    ) -> None:
        dns(monkeypatch, {"a.example": [["127.0.0.1"]]})
        with remote(always(OK), tls=self.context(authority, *names, **made)) as server:
            error = failed_download(server.url("/x?token=1", host="a.example"))
        assert (type(error), error.code, error.message) == (
            NoConnection,
            "tls_error",
            f"a.example:{server.port}/x could not be reached over trusted TLS.",
        )
        assert server.requests == []

    @pytest.mark.parametrize("trusted", ["certifi", "another"])
    def test_an_unknown_authority_is_refused(self, request: pytest.FixtureRequest, trusted: str) -> None:
        if trusted == "another":
            request.getfixturevalue("authority")
        with remote(always(OK), tls=self.context(trustme.CA(), "127.0.0.1")) as server:
            assert failed_download(server.url()).code == "tls_error"
        assert server.requests == []

    def test_no_variable_disables_it_or_adds_another_authority(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "ca.pem"))
        with remote(always(OK), tls=self.context(authority, "127.0.0.1")) as server:
            assert failed_download(server.url()).code == "tls_error"
        assert server.requests == []


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("urllib3.connection.HTTPConnection", "_new_conn"),
        ("urllib3.connectionpool.HTTPConnectionPool", "ConnectionCls"),
        ("http.client.HTTPResponse", "_safe_read"),
        ("http.client.HTTPResponse", "_read_status"),
        ("http.client.HTTPConnection", "response_class"),
        ("requests.adapters.HTTPAdapter", "init_poolmanager"),
        ("requests.Session", "request"),
    ],
)
def test_a_library_that_renamed_an_overridden_name_stops_the_start(place: str, name: str) -> None:
    # Given a library with another name for it
    module, _, owner = place.rpartition(".")
    rename = f"from {module} import {owner} as owner; owner.renamed = owner.{name}; del owner.{name}"
    # When the guard is imported
    program = f"import urllib3.connectionpool, requests.adapters; {rename}; import pipeline.net.guard"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    # Then the import fails with a clear message
    assert done.returncode == 1
    assert f" has no {name} that the guard could override" in done.stderr


def test_a_library_that_does_not_call_an_overridden_method_stops_the_start() -> None:
    change = "from urllib3.connection import HTTPConnection as c; c.connect = lambda self: self.dial()"
    program = f"{change}; import pipeline.net.guard"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "does not use _new_conn, which the guard overrides" in done.stderr
