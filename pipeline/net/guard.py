"""Reaching URLs that strangers name: public addresses only, within a budget of time and bytes.

The guard sits where a connection is opened, not where a URL is parsed: the name is resolved once, every address that
DNS gave is judged, and the socket goes to one that passed. So no spelling of a URL, no redirect and no second answer of
DNS gets around it, a connection kept open is one that was judged, and TLS still checks the name.
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
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
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

from pipeline.errors import PermanentError
from pipeline.settings import get_settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

USER_AGENT = "Mozilla/5.0 (compatible; image-pipeline)"

#: Addresses of one name that are tried before giving up: enough for a dual-stack CDN, too few to scan with.
MAX_ADDRESSES = 8

#: What is not public: all that IANA has not given out for public use, and what is public by its number only. Complete,
#: because Pythons differ on `is_global`. https://www.iana.org/assignments/iana-ipv4-special-registry,
#: https://www.iana.org/assignments/iana-ipv6-special-registry
NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network (RFC 791, section 3.2)
        "10.0.0.0/8",  # private use (RFC 1918)
        "100.64.0.0/10",  # carriers' own networks (RFC 6598)
        "127.0.0.0/8",  # loopback (RFC 1122, section 3.2.1.3)
        "168.63.129.16/32",  # Azure's host services, in every virtual machine
        "169.254.0.0/16",  # link local (RFC 3927), and the metadata services of clouds
        "172.16.0.0/12",  # private use (RFC 1918)
        "192.0.0.0/24",  # protocols (RFC 6890, section 2.1)
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # relays from 6to4, deprecated (RFC 7526)
        "192.168.0.0/16",  # private use (RFC 1918)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved (RFC 1112, section 4), and broadcast (RFC 919)
        # Of IPv6, only 2000::/3 is for public use (RFC 4291, section 2.4). Outside of it are loopback (::1), most ways
        # to write an IPv4 address (::a.b.c.d, ::ffff:a.b.c.d, 64:ff9b::/96 and 64:ff9b:1::/48), discarding (100::/64),
        # segment routing (5f00::/16), unique local (fc00::/7), link local (fe80::/10), site local (fec0::/10) and
        # multicast (ff00::/8). https://www.iana.org/assignments/ipv6-address-space
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",  # protocols (RFC 2928): Teredo, ORCHID, benchmarks, a network's own gateways (RFC 7723)
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4, an IPv4 address inside (RFC 3056)
        "3fff::/20",  # documentation (RFC 9637)
    )
)

#: Bytes of an answer before its body, interim answers included: as many as Chromium takes.
#: https://source.chromium.org/chromium/chromium/src/+/main:net/http/http_stream_parser.h
MAX_HEADER_BYTES = 262_144

#: Headers that are dropped unread. requests would parse them, at 18 s of CPU for 6 MB of Set-Cookie2, to keep nothing.
COOKIES = ("Set-Cookie", "Set-Cookie2")

#: Bytes written between two looks at the clock: one TLS record.
WRITE_SIZE = 16_384


def is_allowed(address: Address) -> bool:
    """Whether a connection may go to `address`: it is public, or in ALLOWED_NETWORKS."""
    if any(address in network for network in get_settings().allowed_networks):
        return True
    return not any(address in network for network in NOT_PUBLIC)


class Budget:
    """What one exchange may cost: `seconds` from now, redirects included, and `wire_bytes` received, headers too."""

    def __init__(self, *, seconds: float, wire_bytes: int) -> None:
        self._deadline = time.monotonic() + seconds
        self._left = wire_bytes

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._deadline

    @property
    def overdrawn(self) -> bool:
        """Whether more bytes came than were allowed."""
        return self._left < 0

    def wait(self, at_most: float | None) -> float:
        """Seconds that the next wait may take; raises TimeoutError when none are left."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is up")
        return min(left, at_most or math.inf)

    def spend(self, size: int) -> None:
        """Count `size` received bytes; raises OSError when they are too many."""
        self._left -= size
        if self.overdrawn:
            raise OSError("too many bytes")


_budget: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def limited_to(budget: Budget) -> Iterator[None]:
    """What this thread does with a guarded session inside counts against `budget`."""
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)


class _Metered(io.RawIOBase):
    """A socket's bytes: each wait for them and their number within the budget, and at first no more than MAX_HEAD."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock, self._raw, self._idle, self._budget = sock, raw, sock.gettimeout(), _budget.get()
        self.left: float = MAX_HEADER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._budget.wait(self._idle))
        size: int | None = self._raw.readinto(buffer)
        self._budget.spend(size or 0)
        self.left -= size or 0
        if self.left < 0:
            raise OSError("too many bytes of headers")
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    # requests' timeout starts anew at each byte, in the headers too; http.client's own limits there are 100 headers of
    # 64 KiB, and none on how often it skips a "100 Continue".
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._metered = _Metered(sock, self.fp.detach())
        self.fp = io.BufferedReader(self._metered)

    def begin(self) -> None:
        super().begin()
        self._metered.left = math.inf  # the budget alone bounds the body
        for name in COOKIES:
            del self.headers[name]

    # http.client takes any interim answer but 100 for the last one. The real one would then lie on the connection, for
    # whoever uses it next. https://www.rfc-editor.org/rfc/rfc9110#section-15.2
    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        return version, HTTPStatus.CONTINUE if 100 <= status < 200 else status, reason

    # A chunk of size -1 would be all that follows, at once.
    def _safe_read(self, amt: int) -> bytes:
        if amt < 0:
            raise IncompleteRead(b"")
        data: bytes = super()._safe_read(amt)  # type: ignore[misc]
        return data


class _Connection(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        name, budget = self._dns_host, _budget.get()
        failure: Exception = PermanentError("blocked_address", f"{self.host} does not lead to a public address.")
        try:
            for address in _addresses(self, name, budget.wait(self.timeout)):
                self._dns_host, self.timeout = str(address), budget.wait(self.timeout)
                try:
                    sock = super()._new_conn()
                except ConnectTimeoutError as error:  # refused and unreachable are its subclasses
                    failure = error
                    continue
                sock.settimeout(budget.wait(self.timeout))  # for the whole of TLS's handshake
                return sock
            raise failure
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "the time is up") from error
        finally:
            self._dns_host = name  # the name that TLS checks

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        try:
            for start in range(0, len(data), WRITE_SIZE):
                self.sock.settimeout(_budget.get().wait(self.timeout))
                super().send(data[start : start + WRITE_SIZE])
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "the request was not taken in time") from error


def _addresses(connection: HTTPConnection, name: str, seconds: float) -> list[Address]:
    """The addresses of `name` that may be reached; the others are dropped, or DNS64 would make every name suspect."""
    try:
        answers = _look_up(name, connection.port).result(seconds)
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    found = [ipaddress.ip_address(sockaddr[0]) for *_, sockaddr in answers]
    return [address for address in found if is_allowed(address)][:MAX_ADDRESSES]


def _look_up(name: str, port: int) -> Future[list[tuple[Any, ...]]]:
    """What DNS will say: in a thread of its own, because the system's resolver heeds no time limit but its own."""
    answers: Future[list[tuple[Any, ...]]] = Future()

    def ask() -> None:
        try:
            answers.set_result(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
        except Exception as error:
            answers.set_exception(error)

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    return answers


class _TLSConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}


def _as_requested(url: str) -> str:
    """`url` in the one spelling that goes out, in which all parsers find the same host; raises ValueError.

    Of `http://a.example\\@b.example/`, requests asks a.example, while urllib.parse reads b.example.
    """
    request = requests.PreparedRequest()
    request.prepare_url(url, None)
    return str(request.url)


def credentials(url: str) -> HTTPBasicAuth | None:
    """The user and password in `url`, as UTF-8; requests by itself fails on those that are not Latin-1."""
    user, password = get_auth_from_url(_as_requested(url))
    return HTTPBasicAuth(user.encode(), password.encode()) if user or password else None


class GuardedSession(requests.Session):
    """A session for many threads that reaches allowed addresses only. Its requests belong inside `limited_to()`.

    It heeds no proxy variable and no .netrc, keeps no cookie and retries nothing. It never follows a redirect, whatever
    is asked: requests would read the redirect's whole body.
    """

    def __init__(self, pool_size: int) -> None:
        # urllib3 logs a malformed header at level WARNING with the whole URL, query included.
        logging.getLogger("urllib3.connection").setLevel(logging.ERROR)
        super().__init__()
        self.trust_env = False
        self.headers["User-Agent"] = USER_AGENT
        adapter = _Adapter(pool_connections=pool_size, pool_maxsize=pool_size)
        self.adapters.clear()
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        request.auth = request.auth or credentials(request.url)
        return super().prepare_request(request)

    def should_strip_auth(self, old_url: str, new_url: str) -> bool:
        """Whether credentials for `old_url` must not be sent to `new_url`."""
        strip: bool = super().should_strip_auth(_as_requested(old_url), _as_requested(new_url))  # type: ignore[no-untyped-call]
        return strip

    def resolve_redirects(self, *_: Any, **__: Any) -> Generator[requests.Response]:
        yield from ()


# A library that gave another name to what is overridden here would connect unguarded. So nothing starts then.

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
    (requests.Session.request, "prepare_request"),
    (requests.Session.send, "resolve_redirects"),
)
for _caller, _name in _CALLS:
    if _name not in inspect.unwrap(_caller).__code__.co_names:
        raise ImportError(f"{_caller.__qualname__} does not use {_name}, which the guard overrides")
