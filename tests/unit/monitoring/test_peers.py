"""Whose connection ends when all places of a server are taken."""

from __future__ import annotations

import pytest

from pipeline.monitoring.peers import KEPT_FOR_LOOPBACK, network_of, one_to_end

FAR = [f"10.0.0.{number}" for number in range(1, 13)]


@pytest.mark.parametrize(
    ("addresses", "index"),
    [
        ([*FAR, "10.0.0.99"], 0),  # the oldest, if all have one
        ([FAR[0], FAR[1], FAR[1], FAR[2]], 1),  # the oldest of the address with the most
        ([FAR[0], FAR[1], FAR[1], FAR[2], FAR[2]], 1),
        (["2001:db8::1", FAR[0], FAR[0], "2001:db8::2", "2001:db8::3"], 0),  # one client has a whole network of IPv6
        (["::ffff:10.0.0.1", "10.0.0.2", "::ffff:10.0.0.3", "10.0.0.2"], 1),  # and the addresses of IPv4 are apart
    ],
)
def test_the_oldest_of_the_address_with_the_most_connections_ends(addresses: list[str], index: int) -> None:
    assert one_to_end(addresses) == index


def test_a_few_connections_from_this_host_are_kept() -> None:
    probes = ["127.0.0.1"] * KEPT_FOR_LOOPBACK
    # Given probes of this host that are older than all others, and more of them than of any other address
    assert one_to_end([*probes, *FAR]) == KEPT_FOR_LOOPBACK
    assert one_to_end([*probes[:-1], "::1", *FAR]) == KEPT_FOR_LOOPBACK
    # When this host opens more than a few, then its connections end like those of others
    assert one_to_end([*probes, *FAR, "127.0.0.1"]) == 0
    # and if there are no others, then its oldest ends.
    assert one_to_end(["127.0.0.1", "127.0.0.2"]) == 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8::7", "2001:db8::/64"),
        ("fe80::7%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_one_client_has_an_address_or_a_network_of_ipv6(address: str, network: str) -> None:
    assert network_of(address) == network
