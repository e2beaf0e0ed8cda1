"""HTTP requests to untrusted URLs: public addresses only, within a budget of time and bytes.

The guard checks addresses where a connection is opened, not where a URL is parsed. It resolves the name once, checks
every address from DNS, and connects only to an allowed one. Unusual spellings of a URL, redirects and a second answer
from DNS cannot bypass it. Connections that are kept open were checked too, and TLS still verifies the name.
"""

from __future__ import annotations

import http.client
import inspect
import io
import ipaddress
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPResponse, IncompleteRead
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError
from urllib3.poolmanager import PoolManager

from pipeline.errors import NoRequest
from pipeline.setting_types import Network, PortRange

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Maximum addresses to try for a name: enough for a dual-stack CDN, and too few for a port scan.
MAX_ADDRESSES = 8

#: Networks that are not public: all that IANA has not assigned to public use, and some that are public only by their
#: number. The list is complete, because `is_global` differs between versions of Python.
#: https://www.iana.org/assignments/iana-ipv4-special-registry,
#: https://www.iana.org/assignments/iana-ipv6-special-registry
NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network (RFC 791, section 3.2)
        "10.0.0.0/8",  # private use (RFC 1918)
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598)
        "127.0.0.0/8",  # loopback (RFC 1122, section 3.2.1.3)
        "168.63.129.16/32",  # services of the host in every virtual machine of Azure
        "169.254.0.0/16",  # link local (RFC 3927), including the metadata services of clouds
        "172.16.0.0/12",  # private use (RFC 1918)
        "192.0.0.0/24",  # protocol assignments (RFC 6890, section 2.1)
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # 6to4 relays, deprecated (RFC 7526)
        "192.168.0.0/16",  # private use (RFC 1918)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved (RFC 1112, section 4), and broadcast (RFC 919)
        # In IPv6, only 2000::/3 is for public use (RFC 4291, section 2.4). Outside of it are loopback (::1), most forms
        # of IPv4 addresses (::a.b.c.d, ::ffff:a.b.c.d, 64:ff9b::/96 and 64:ff9b:1::/48), discard-only (100::/64),
        # segment routing (5f00::/16), unique local (fc00::/7), link local (fe80::/10), site local (fec0::/10) and
        # multicast (ff00::/8). https://www.iana.org/assignments/ipv6-address-space
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",  # protocol assignments (RFC 2928): Teredo, ORCHID, benchmarks, anycast of gateways (RFC 7723)
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4, which contains an IPv4 address (RFC 3056)
        "3fff::/20",  # documentation (RFC 9637)
    )
)

#: Maximum bytes of a response before its body, including interim responses: the limit of Chromium.
#: https://source.chromium.org/chromium/chromium/src/+/main:net/http/http_stream_parser.h
MAX_HEADER_BYTES = 262_144

#: Headers to drop. requests would parse them, which takes 18 s of CPU for 6 MB of Set-Cookie2.
COOKIES = ("Set-Cookie", "Set-Cookie2")

#: Bytes to write between two checks of the time budget: one TLS record.
WRITE_SIZE = 16_384


@dataclass(frozen=True)
class Reach:
    """The addresses and ports that a session may connect to: public ones, with exceptions.

    Attributes:
        allowed: Networks that it may reach though not public.
        blocked: Networks that it may not reach, whether public or allowed.
        ports: The ports that it may ask for.
    """

    allowed: tuple[Network, ...] = ()
    blocked: tuple[Network, ...] = ()
    ports: tuple[PortRange, ...] = (PortRange(1, 65535),)

    def permits(self, address: Address) -> bool:
        """Return whether connections to `address` are permitted."""
        if any(address in network for network in self.blocked):
            return False
        is_public = not any(address in network for network in NOT_PUBLIC)
        return is_public or any(address in network for network in self.allowed)

    def permits_port(self, port: int) -> bool:
        """Return whether connections to `port` are permitted."""
        return any(ports.first <= port <= ports.last for ports in self.ports)


class Budget:
    """Limits of one exchange, redirects included.

    Args:
        seconds: the time from now.
        wire_bytes: the bytes to receive, headers included.
        least_rate: bytes a second that must have been received on average, from `grace` seconds on.
        grace: the seconds before that.
    """

    def __init__(self, *, seconds: float, wire_bytes: int, least_rate: float = 0.0, grace: float = 0.0) -> None:
        self._began = time.monotonic()
        self._deadline = self._began + seconds
        self._left = wire_bytes
        self._received = 0
        self._least_rate = least_rate
        self._grace = grace

    @property
    def expired(self) -> bool:
        """Whether the time has run out."""
        return time.monotonic() >= self._deadline

    @property
    def overdrawn(self) -> bool:
        """Whether more bytes were received than allowed."""
        return self._left < 0

    def timeout(self, longest: float | None) -> float:
        """Return the seconds for the next wait, at most `longest`.

        Raises:
            TimeoutError: the time has run out.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time has run out")
        return min(left, longest or math.inf)

    def spend(self, size: int) -> None:
        """Count `size` received bytes.

        Raises:
            OSError: they are too many.
            TimeoutError: they come too slowly.
        """
        self._left -= size
        self._received += size
        if self.overdrawn:
            raise OSError("too many bytes")
        elapsed = time.monotonic() - self._began
        if elapsed > self._grace and self._received < elapsed * self._least_rate:
            raise TimeoutError("too few bytes")


_budget: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def limited_to(budget: Budget) -> Iterator[None]:
    """Charge requests of this thread inside the context to `budget`."""
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)


class _Metered(io.RawIOBase):
    """Received bytes, charged to the budget. Before the body there are at most `MAX_HEADER_BYTES`."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock, self._raw, self._idle, self._budget = sock, raw, sock.gettimeout(), _budget.get()
        self.left: float = MAX_HEADER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        seconds = self._budget.timeout(self._idle)
        if seconds != self._sock.gettimeout():  # setting it takes a system call, and lets other threads run
            self._sock.settimeout(seconds)
        size: int | None = self._raw.readinto(buffer)
        self._budget.spend(size or 0)
        self.left -= size or 0
        if self.left < 0:
            raise OSError("too many bytes before the body")
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    # requests restarts its timeout at each byte, even in the headers. http.client allows 100 headers of 64 KiB there,
    # and any number of "100 Continue" responses.
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._metered = _Metered(sock, self.fp.detach())
        self.fp = io.BufferedReader(self._metered)

    def begin(self) -> None:
        super().begin()
        self._metered.left = math.inf  # only the budget limits the body
        for name in COOKIES:
            del self.headers[name]

    # http.client treats interim responses other than 100 as final. The real response would stay on the connection for
    # the next request. https://www.rfc-editor.org/rfc/rfc9110#section-15.2
    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        return version, HTTPStatus.CONTINUE if 100 <= status < 200 else status, reason

    # A chunk of size -1 would mean reading everything that follows at once.
    def _safe_read(self, amt: int) -> bytes:
        if amt < 0:
            raise IncompleteRead(b"")
        data: bytes = super()._safe_read(amt)  # type: ignore[misc]
        return data


class _Connection(HTTPConnection):
    response_class = _Response

    def __init__(self, *args: Any, reach: Reach, **options: Any) -> None:
        super().__init__(*args, **options)
        self.reach = reach

    def _new_conn(self) -> socket.socket:
        name, budget = self._dns_host, _budget.get()
        if not self.reach.permits_port(self.port):
            raise NoRequest("blocked_port", f"The port {self.port} of {self.host} is not in ALLOWED_PORTS.")
        failure: Exception = NoRequest("blocked_address", f"{self.host} does not have a public address.")
        try:
            for address in _addresses(self, name, budget.timeout(self.timeout)):
                self._dns_host, self.timeout = str(address), budget.timeout(self.timeout)
                try:
                    sock = super()._new_conn()
                except ConnectTimeoutError as error:  # including its subclasses for refused and unreachable
                    failure = error
                    continue
                sock.settimeout(budget.timeout(self.timeout))  # for the whole TLS handshake
                return sock
            raise failure
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "the time has run out") from error
        finally:
            self._dns_host = name  # the name that TLS verifies

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        try:
            for start in range(0, len(data), WRITE_SIZE):
                self.sock.settimeout(_budget.get().timeout(self.timeout))
                super().send(data[start : start + WRITE_SIZE])
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "the server did not read the request in time") from error


def _addresses(connection: _Connection, name: str, seconds: float) -> list[Address]:
    """Return the permitted addresses of `name`. Others are skipped, because with DNS64 every name may have some."""
    try:
        answers = _resolve(name, connection.port).result(seconds)
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    found = [ipaddress.ip_address(sockaddr[0]) for *_, sockaddr in answers]
    return [address for address in found if connection.reach.permits(address)][:MAX_ADDRESSES]


def _resolve(name: str, port: int) -> Future[list[tuple[Any, ...]]]:
    """Resolve `name` in a separate thread, because the system's resolver accepts no timeout."""
    answers: Future[list[tuple[Any, ...]]] = Future()

    def resolve() -> None:
        try:
            answers.set_result(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
        except Exception as error:
            answers.set_exception(error)

    threading.Thread(target=resolve, name="resolve", daemon=True).start()
    return answers


class _TLSConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    def __init__(self, reach: Reach, **options: Any) -> None:
        self._reach = reach
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        pools = {"http": partial(_Pool, reach=self._reach), "https": partial(_TLSPool, reach=self._reach)}
        self.poolmanager.pool_classes_by_scheme = pools


def as_requested(url: str) -> str:
    r"""Return `url` as requests sends it, so that all parsers find the same host in it.

    For `http://a.example\@b.example/`, requests connects to a.example, while urllib.parse returns b.example.

    Raises:
        ValueError: requests does not accept the URL.
    """
    request = requests.PreparedRequest()
    request.prepare_url(url, None)
    return str(request.url)


def credentials(url: str) -> HTTPBasicAuth | None:
    """Return the user and password in `url` as UTF-8. requests alone fails on any that are not Latin-1."""
    if "@" not in url:
        return None
    user, password = get_auth_from_url(as_requested(url))
    return HTTPBasicAuth(user.encode(), password.encode()) if user or password else None


class GuardedSession(requests.Session):
    """A session, shared by threads, that connects to allowed addresses only. Make requests inside `limited_to()`.

    It sends each request by its adapter, and leaves out what a session of requests adds: it ignores proxy variables and
    .netrc, keeps no cookies, and never retries or follows redirects. This takes a sixth less CPU.
    """

    def __init__(self, pool_size: int, reach: Reach, user_agent: str) -> None:
        # urllib3 logs a malformed header at level WARNING with the whole URL, query included.
        logging.getLogger("urllib3.connection").setLevel(logging.ERROR)
        super().__init__()
        self.trust_env = False  # for `send`, which nothing here uses
        self.headers["User-Agent"] = user_agent
        adapter = _Adapter(reach, pool_connections=pool_size, pool_maxsize=pool_size)
        self.adapters.clear()
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def request(  # type: ignore[override]
        self,
        method: str,
        url: str,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        auth: HTTPBasicAuth | None = None,
    ) -> requests.Response:
        """Make a request, and return the response before its body is read.

        Args:
            method: `GET` or `POST`.
            url: the untrusted URL.
            timeout: the longest wait in seconds.
            headers: besides those of the session, which they replace.
            data: the body.
            auth: by default the user and password in `url`.
        """
        request, verify = requests.PreparedRequest(), self.verify
        all_headers = {**self.headers, **(headers or {})}
        request.prepare(method, url, all_headers, data=data, auth=auth or credentials(url))
        adapter = self.get_adapter(str(request.url))
        return adapter.send(request, stream=True, timeout=timeout, verify=True if verify is None else verify)

    def should_strip_auth(self, old_url: str, new_url: str) -> bool:
        strip: bool = super().should_strip_auth(as_requested(old_url), as_requested(new_url))  # type: ignore[no-untyped-call]
        return strip


# If a library renamed a method that is overridden here, connections would bypass the guard. Importing it then fails.

for _ours in (_Response, _Connection, _TLSConnection, _Pool, _TLSPool, _Adapter, GuardedSession):
    for _name in vars(_ours):
        if not _name.startswith("__") and not any(hasattr(base, _name) for base in _ours.__bases__):
            raise ImportError(f"{_ours.__bases__[0].__qualname__} has no {_name} that the guard could override")

_CALLS: tuple[tuple[Callable[..., Any], str], ...] = (
    (HTTPConnection.connect, "_new_conn"),
    (HTTPSConnection.connect, "_new_conn"),
    (HTTPConnection._new_conn, "_dns_host"),
    (http.client.HTTPConnection._send_output, "send"),  # type: ignore[attr-defined]
    (HTTPResponse.begin, "_read_status"),
    (HTTPResponse._read_chunked, "_safe_read"),  # type: ignore[attr-defined]
    (HTTPConnectionPool._new_conn, "ConnectionCls"),
    (PoolManager._new_pool, "pool_classes_by_scheme"),
    (HTTPAdapter.__init__, "init_poolmanager"),
)
for _caller, _name in _CALLS:
    if _name not in inspect.unwrap(_caller).__code__.co_names:
        raise ImportError(f"{_caller.__qualname__} does not use {_name}, which the guard overrides")
