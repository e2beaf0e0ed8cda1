"""The peers of our HTTP servers: which address they count for, and whose connection ends when all slots are taken."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Sequence

#: Connections from this host that do not end for those of others: its probes, a scrape and a person who looks.
KEPT_FOR_LOOPBACK = 4


def one_to_end(addresses: Sequence[str]) -> int:
    """Choose the connection that ends so that a new one always gets in.

    It is the oldest one of the address with the most connections. Peers that open many and neither send nor read
    therefore displace each other. A probe is answered within milliseconds, long before it is the oldest. This also
    holds in Kubernetes, where probes come from the address of the node and not from loopback.

    Args:
        addresses: The address of each open connection, oldest first; the last is the new one.

    Returns:
        The index of the connection to end.
    """
    networks = [network_of(address) for address in addresses]
    local = [network for network in networks if _is_loopback(network)]
    kept = set(local) if len(local) <= KEPT_FOR_LOOPBACK else set()
    counts = Counter(network for network in networks if network not in kept) or Counter(networks)
    most = max(counts.values())
    return next(index for index, network in enumerate(networks) if counts[network] == most)


def network_of(address: str) -> str:
    """Return the address, or for IPv6 its network of 64 bits, which one client can use as a whole."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))


def _is_loopback(network: str) -> bool:
    return network.startswith("127.") or network == "::/64"
