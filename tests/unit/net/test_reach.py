"""The networks and ports that fetch and postbacks may reach."""

from __future__ import annotations

import ipaddress

import pytest

from pipeline.errors import NoRequest, PermanentError
from pipeline.net.guard import Address, Reach
from pipeline.net.notifications import postback
from pipeline.settings import get_settings
from tests.support.untrusted_servers import always, answer, failed_download, remote, settings

OK = answer(200, b"picture", keep=True)


@pytest.fixture(autouse=True)
def _loopback(loopback_is_allowed: None) -> None:
    """Allow it in all tests, before the fixtures of a class."""


def is_allowed(address: Address) -> bool:
    return Reach(get_settings().fetch_networks).permits(address)


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
    monkeypatch: pytest.MonkeyPatch, networks: str, address: str, allowed: bool
) -> None:
    settings(monkeypatch, ALLOWED_NETWORKS=networks)

    assert is_allowed(ipaddress.ip_address(address)) is allowed


def test_networks_are_opened_for_fetch_and_postbacks_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(
        monkeypatch,
        ALLOWED_NETWORKS="",
        FETCH_ALLOWED_NETWORKS="127.0.0.2/32",
        POSTBACK_ALLOWED_NETWORKS="127.0.0.1/32",
    )
    with remote(always(OK)) as server:
        # Given a receiver of postbacks on an internal address, when an image URL names it, then it gets no request.
        assert failed_download(server.url()).code == "blocked_address"
        assert not server.connections
        # The postback itself reaches it, also over a connection that is kept open.
        postback("job-1", server.url(), {})
        assert failed_download(server.url()).code == "blocked_address"


@pytest.mark.parametrize("url", ["http://8.8.8.8/", "http://127.0.0.1/"])
def test_blocked_networks_are_closed_though_public_or_allowed(
    monkeypatch: pytest.MonkeyPatch, attempts: list[str], url: str
) -> None:
    settings(monkeypatch, BLOCKED_NETWORKS="8.8.8.0/24,127.0.0.0/8")
    assert failed_download(url).code == "blocked_address"
    with pytest.raises(PermanentError, match="blocked_address"):
        postback("job-1", url, {})
    assert not attempts


@pytest.mark.parametrize("port", [22, 25, 81, 1023])
def test_fetch_asks_for_allowed_ports_only(attempts: list[str], port: int) -> None:
    error = failed_download(f"http://8.8.8.8:{port}/")
    assert (type(error), error.code, attempts) == (NoRequest, "blocked_port", [])


@pytest.mark.parametrize("url", ["http://8.8.8.8/", "https://8.8.8.8/", "http://8.8.8.8:8080/"])
def test_ports_of_the_web_are_allowed(attempts: list[str], url: str) -> None:
    assert failed_download(url).code == "unreachable"
    assert attempts == ["8.8.8.8"]


def test_ports_of_the_settings_replace_the_default(monkeypatch: pytest.MonkeyPatch, attempts: list[str]) -> None:
    settings(monkeypatch, ALLOWED_PORTS="443, 7000-7010")
    codes = {port: failed_download(f"http://8.8.8.8:{port}/").code for port in (80, 443, 6999, 7000, 7010, 7011)}
    assert [port for port, code in codes.items() if code == "unreachable"] == [443, 7000, 7010]
