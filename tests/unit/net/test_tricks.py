"""Tricks to make the service reach private addresses. Servers listen at every target, and none is reached.

The tests have an internet of their own (`untrusted_servers.internet`). Behind one public address is a server that
redirects to any requested target; behind all other addresses is a server that must not be reached. So a trick that
gets past the guard gets an answer. A test without the guard proves that each trick would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import pytest

from pipeline.clients import lazy
from pipeline.errors import PermanentError, PipelineError, RetryableError
from pipeline.net.notifications import postback
from tests.support.untrusted_servers import (
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
from tests.support.waiting import wait_for

PUBLIC = "8.8.8.8"

#: The server behind the public address.
SERVED = "served from outside"


@dataclass(frozen=True)
class Trick:
    """A named URL, the DNS answers for its hosts, and the code of the resulting error (or SERVED)."""

    name: str
    url: str
    outcome: str = "blocked_address"
    dns: dict[str, list[list[str]]] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def redirect(target: str, status: int = 302) -> str:
    """Return a URL of the public server that redirects to `target`."""
    return f"http://public.example/{status}?{quote(target, safe='')}"


# Hosts in `http://<host>/`.
HOSTS = {
    "loopback": "127.0.0.1",
    "loopback, the last address": "127.255.255.254",
    "loopback with a port": "127.0.0.1:6379",
    "one part missing": "127.0.1",
    "two parts missing": "127.1",
    "decimal": "2130706433",
    "hexadecimal": "0x7f000001",
    "hexadecimal parts": "0x7f.0x0.0x0.0x1",
    "hexadecimal and short": "0x7f.1",
    "octal": "017700000001",
    "octal part": "0177.0.0.1",
    "octal with zeros before": "00000177.0.0.1",
    "percent-encoded digits": "%31%32%37.0.0.1",
    "percent-encoded dots": "127%2e0%2E0%2e1",
    "unspecified": "0.0.0.0",
    "unspecified, decimal": "0",
    "unspecified, hexadecimal": "0x0",
    "this network": "0.1.2.3",
    "private 10": "10.0.0.1",
    "private 10, short": "10.1",
    "private 172.16": "172.16.0.1",
    "private 172.31": "172.31.255.255",
    "private 192.168": "192.168.1.1",
    "private 192.168, short": "192.168.257",
    "carrier-grade NAT": "100.64.0.1",
    "metadata of AWS, Google and others": "169.254.169.254",
    "metadata, decimal": "2852039166",
    "metadata, hexadecimal": "0xa9fea9fe",
    "metadata, octal": "0251.0376.0251.0376",
    "metadata of ECS": "169.254.170.2",
    "metadata of Alibaba": "100.100.100.200",
    "metadata of Oracle": "192.0.0.192",
    "services of Azure": "168.63.129.16",
    "gateway by anycast": "192.0.0.9",
    "documentation 1": "192.0.2.1",
    "documentation 2": "198.51.100.1",
    "documentation 3": "203.0.113.7",
    "benchmarks": "198.18.0.1",
    "6to4 relay": "192.88.99.1",
    "multicast": "224.0.0.1",
    "multicast of UPnP": "239.255.255.250",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "IPv6 loopback": "[::1]",
    "IPv6 loopback in full": "[0:0:0:0:0:0:0:1]",
    "IPv6 unspecified": "[::]",
    "IPv4-mapped loopback": "[::ffff:127.0.0.1]",
    "IPv4-mapped loopback in hexadecimal": "[::ffff:7f00:1]",
    "IPv4-mapped loopback in full": "[0:0:0:0:0:ffff:127.0.0.1]",
    "IPv4-mapped metadata": "[::ffff:169.254.169.254]",
    "IPv4-mapped public": "[::ffff:8.8.8.8]",
    "IPv4-compatible loopback": "[::127.0.0.1]",
    "IPv4-compatible loopback in hexadecimal": "[::7f00:1]",
    "IPv4-compatible public": "[::8.8.8.8]",
    "IPv4-translated loopback": "[::ffff:0:127.0.0.1]",
    "NAT64 loopback": "[64:ff9b::127.0.0.1]",
    "NAT64 metadata": "[64:ff9b::a9fe:a9fe]",
    "local NAT64": "[64:ff9b:1::a00:1]",
    "6to4 loopback": "[2002:7f00:1::]",
    "6to4 metadata": "[2002:a9fe:a9fe::1]",
    "Teredo with a private client": "[2001:0:4136:e378:8000:63bf:f5ff:fffe]",
    "ISATAP loopback": "[fe80::5efe:7f00:1]",
    "IPv6 link-local": "[fe80::1]",
    "IPv6 site-local": "[fec0::1]",
    "IPv6 unique local": "[fc00::1]",
    "IPv6 metadata of AWS": "[fd00:ec2::254]",
    "IPv6 multicast": "[ff02::1]",
    "IPv6 multicast, global": "[ff0e::1]",
    "IPv6 documentation": "[2001:db8::1]",
    "IPv6 documentation, new": "[3fff::1]",
    "IPv6 discard": "[100::1]",
    "IPv6 segment routing": "[5f00::1]",
    "IPv6 not given out": "[4000::1]",
    "IPv6 gateway by anycast": "[2001:1::1]",
    "IPv6 overlay": "[2001:20::1]",
    "user like a host": "public.example@127.0.0.1",
    "user and password like a host": "public.example:80@127.0.0.1",
    "user with an escaped slash": "public.example%2f@127.0.0.1",
    "two at signs": "public.example@public.example@127.0.0.1",
    "fragment like a host": "127.0.0.1#@public.example",
    "query like a host": "127.0.0.1?@public.example",
    "path like a host": r"127.0.0.1\@public.example",
    "path like a host after a port": r"127.0.0.1:80\@public.example",
}

# Whole URLs.
URLS = {
    "upper-case scheme": ("HTTP://127.0.0.1/", "blocked_address"),
    "mixed-case scheme": ("hTTpS://127.0.0.1/", "blocked_address"),
    "blank before": (" \thttp://127.0.0.1/", "blocked_address"),
    "unicode full stops": ("http://127\u30020\u30020\u30021/", "bad_url"),
    "unicode half-width stops": ("http://127\uff610\uff610\uff611/", "bad_url"),
    "full-width digits": ("http://\uff11\uff12\uff17.0.0.1/", "bad_url"),
    "circled digits": ("http://\u2460\u2461\u2466.0.0.1/", "bad_url"),
    "soft hyphen": ("http://127.0.0.\u00ad1/", "bad_url"),
    "newline in the host": ("http://127.0.\n0.1/", "bad_url"),
    "null in the host": ("http://127.0.0.1%00.public.example/", "bad_url"),
    "header in the host": ("http://public.example\r\nHost: 127.0.0.1/", "bad_url"),
    "header in the path": ("http://public.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /", SERVED),
    "user like an inner host": ("http://127.0.0.1@public.example/", SERVED),
    "path like an inner host": (r"http://public.example\@127.0.0.1/", SERVED),
    "zone": ("http://[fe80::1%25lo]/", "unreachable"),
    "zone, bare": ("http://[fe80::1%lo]/", "unreachable"),
    "zone of loopback": ("http://[::1%25lo]/", "unreachable"),
    "dot after the address": ("http://127.0.0.1./", "unreachable"),
    "decimal past 32 bits": ("http://6425673729/", "unreachable"),
    "part past 8 bits": ("http://383.0.0.1/", "unreachable"),
    "no slashes": ("http:127.0.0.1/", "bad_url"),
    "one slash": ("http:/127.0.0.1/", "bad_url"),
    "three slashes": ("http:///127.0.0.1/", "bad_url"),
    "backslashes": ("http:\\\\127.0.0.1\\", "bad_url"),
    "no scheme": ("//127.0.0.1/", "bad_url"),
    "nothing but a host": ("127.0.0.1", "bad_url"),
    "open bracket": ("http://[::1/", "bad_url"),
    "two ports": ("http://127.0.0.1:80:80/", "bad_url"),
    "port past 16 bits": ("http://127.0.0.1:65616/", "bad_url"),
    "nothing": ("", "bad_url"),
    "no host": ("http://", "bad_url"),
    "blank in the host": ("http://exa mple.com/", "bad_url"),
    "wildcard": ("http://*.example.com/", "bad_url"),
    "label past 63 characters": (f"http://{'a' * 64}.com/", "bad_url"),
    "surrogate": ("http://\ud800/", "bad_url"),
    "file": ("file:///etc/passwd", "bad_url"),
    "file with a host": ("file://127.0.0.1/etc/passwd", "bad_url"),
    "ftp": ("ftp://127.0.0.1/x", "bad_url"),
    "gopher": ("gopher://127.0.0.1:6379/_FLUSHALL", "bad_url"),
    "data": ("data:image/gif;base64,R0lGODlhAQABAAAAADs=", "bad_url"),
    "javascript": ("javascript:alert(1)", "bad_url"),
    "jar": ("jar:http://127.0.0.1/!/", "bad_url"),
    "socket": ("http+unix://%2Frun%2Fdocker.sock/info", "bad_url"),
    "scheme that begins with http": ("httpx://127.0.0.1/", "bad_url"),
}

# DNS answers of a name, one per query.
ANSWERS: dict[str, tuple[list[list[str]], str]] = {
    "to loopback": ([["127.0.0.1"]], "blocked_address"),
    "to IPv6 loopback": ([["::1"]], "blocked_address"),
    "to both loopbacks": ([["::1", "127.0.0.1"]], "blocked_address"),
    "to nowhere": ([["0.0.0.0"]], "blocked_address"),
    "to metadata": ([["169.254.169.254"]], "blocked_address"),
    "to IPv4-mapped metadata": ([["::ffff:169.254.169.254"]], "blocked_address"),
    "to NAT64": ([["64:ff9b::a00:1"]], "blocked_address"),
    "to private addresses": ([["10.0.0.5", "fd00::5"]], "blocked_address"),
    "to a zone": ([["fe80::1%1"]], "blocked_address"),
    "to a private address before a public one": ([["127.0.0.1", PUBLIC]], SERVED),
    "to a public address before a private one": ([[PUBLIC, "127.0.0.1"]], SERVED),
    "that turns private after the look": ([[PUBLIC], ["127.0.0.1"]], SERVED),
    "that turns private and back": ([[PUBLIC], ["127.0.0.1"], [PUBLIC]], SERVED),
    "that turns public after the look": ([["127.0.0.1"], [PUBLIC]], "blocked_address"),
}

LOCAL_NAMES = ["localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "ip6-localhost", "a.localhost"]

# Targets of redirects from a public server.
TARGETS = {
    "to loopback": ("http://127.0.0.1/", "blocked_address"),
    "to a port of loopback": ("http://127.0.0.1:6379/", "blocked_address"),
    "to IPv6 loopback": ("http://[::1]/", "blocked_address"),
    "to IPv4-mapped loopback": ("http://[::ffff:127.0.0.1]/", "blocked_address"),
    "to metadata": ("http://169.254.169.254/latest/meta-data/", "blocked_address"),
    "to a decimal address": ("http://2130706433/", "blocked_address"),
    "to https": ("https://127.0.0.1/", "blocked_address"),
    "without a scheme": ("//127.0.0.1/", "blocked_address"),
    "without a scheme, to IPv6": ("//[::1]/", "blocked_address"),
    "with a user": ("http://public.example@127.0.0.1/", "blocked_address"),
    "with a backslash": (r"http://127.0.0.1\@public.example/", "blocked_address"),
    "with a blank before": (" http://127.0.0.1/", "blocked_address"),
    "with unicode stops": ("http://127\u30020\u30020\u30021/", "bad_url"),
    "to a redirect": (redirect("http://127.0.0.1/"), "blocked_address"),
    "to a redirect of a redirect": (redirect(redirect("//[::1]/")), "blocked_address"),
    "to a name that leads inside": ("http://inside.example/", "blocked_address"),
    "to a name that has turned private": ("http://turns.example/", "blocked_address"),
    "to a file": ("file:///etc/passwd", "bad_url"),
    "to ftp": ("ftp://127.0.0.1/", "bad_url"),
    "to gopher": ("gopher://127.0.0.1:6379/_FLUSHALL", "bad_url"),
    "to data": ("data:image/gif;base64,R0lGODlhAQABAAAAADs=", "bad_url"),
}

TRICKS = [
    *(Trick(name, f"http://{host}/x?token=1") for name, host in HOSTS.items()),
    *(Trick(name, url, outcome) for name, (url, outcome) in URLS.items()),
    *(Trick(f"the name {name}", f"http://{name}/", dns={name.lower(): [["::1", "127.0.0.1"]]}) for name in LOCAL_NAMES),
    *(
        Trick(f"a name {name}", "http://trick.example/", outcome, {"trick.example": answers})
        for name, (answers, outcome) in ANSWERS.items()
    ),
]

REDIRECTS = [
    *(Trick(f"redirect {status}", redirect("http://127.0.0.1/", status)) for status in (301, 302, 303, 307, 308)),
    *(
        Trick(f"no redirect {status}", redirect("http://127.0.0.1/", status), outcome)
        for status, outcome in {201: SERVED, 300: "http_300", 304: "http_304", 305: "http_305", 403: "http_403"}.items()
    ),
    *(
        Trick(
            f"redirect {name}",
            redirect(target),
            outcome,
            {"inside.example": [["10.0.0.1"]], "turns.example": [["127.0.0.1"]]},
        )
        for name, (target, outcome) in TARGETS.items()
    ),
    Trick(
        "redirect to the same name, which has turned private",
        redirect("http://public.example/").replace("public", "turns"),
        dns={"turns.example": [[PUBLIC], ["127.0.0.1"]]},
    ),
]


def serve(_: Remote, request: Request) -> Iterator[bytes]:
    """Answer `/<status>?<target>` with that status and target, and every other path with a body."""
    path, _, target = request.path.partition("?")
    if target and path[1:].isdigit():
        location = unquote(target, encoding="latin-1")  # UTF-8, as browsers and servers write it.
        yield answer(int(path[1:]), SERVED.encode(), f"Location: {location or request.path}")
    else:
        yield answer(200, SERVED.encode())


@dataclass(frozen=True)
class World:
    """The server outside, the server that must not be reached, and the addresses of all connections."""

    outside: Remote
    inside: tuple[Remote, Remote]
    reached: list[str]

    @property
    def visits_inside(self) -> int:
        return sum(server.connections for server in self.inside)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    settings(monkeypatch, ALLOWED_NETWORKS="", FETCH_TIMEOUT="5", FETCH_TOTAL_TIMEOUT="10", POSTBACK_TIMEOUT="5")
    inside = always(answer(200, b"a secret from inside"))
    with (
        remote(serve) as outside,
        remote(inside) as ipv4,
        remote(inside, host="::1") as ipv6,
    ):
        yield World(outside, (ipv4, ipv6), internet(monkeypatch, {PUBLIC: outside}, ipv4, ipv6))
    lazy.forget()


def fetched(url: str) -> str:
    return download(url).decode()


def posted(url: str) -> str:
    postback("a job", url, {})
    return SERVED


def outcome(visit: Callable[[str], str], url: str) -> str:
    """Return the body of the answer, or the code of its error."""
    try:
        return visit(url)
    except PipelineError as caught:
        error = caught
    retried = {"unreachable", "timeout", "tls_error"}
    assert isinstance(error, RetryableError if error.code in retried else PermanentError)
    assert "token" not in str(error)
    return error.code


def test_the_list_is_long_enough() -> None:
    assert len({trick.name for trick in TRICKS + REDIRECTS}) == len(TRICKS + REDIRECTS) >= 40


@pytest.mark.unmeasured
class TestNoneIsReached:
    @pytest.mark.parametrize("trick", TRICKS + REDIRECTS, ids=str)
    def test_by_a_download(self, monkeypatch: pytest.MonkeyPatch, world: World, trick: Trick) -> None:
        dns(monkeypatch, {"public.example": [[PUBLIC]], **trick.dns})

        assert outcome(fetched, trick.url) == trick.outcome

        assert set(world.reached) <= {PUBLIC}
        assert world.visits_inside == 0

    @pytest.mark.parametrize("trick", TRICKS, ids=str)
    def test_by_a_postback(self, monkeypatch: pytest.MonkeyPatch, world: World, trick: Trick) -> None:
        dns(monkeypatch, {"public.example": [[PUBLIC]], **trick.dns})

        assert outcome(posted, trick.url) == trick.outcome

        assert set(world.reached) <= {PUBLIC}
        assert world.visits_inside == 0

    def test_by_a_postback_that_is_redirected(self, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
        dns(monkeypatch, {"public.example": [[PUBLIC]]})

        with pytest.raises(RetryableError, match="http_307"):
            postback("a job", redirect("http://127.0.0.1/", 307), {})

        assert world.reached == [PUBLIC]

    @pytest.mark.parametrize(
        "trick", [trick for trick in TRICKS + REDIRECTS if trick.outcome == "blocked_address"], ids=str
    )
    def test_without_the_guard_each_reaches_a_server(
        self, monkeypatch: pytest.MonkeyPatch, world: World, trick: Trick
    ) -> None:
        # Given every address on the list of exceptions
        settings(monkeypatch, ALLOWED_NETWORKS="0.0.0.0/0,::/0")
        dns(monkeypatch, {"public.example": [[PUBLIC]], **trick.dns})
        # When the trick is tried
        if "https" in trick.url.lower():  # No server inside speaks TLS.
            settings(monkeypatch, FETCH_TIMEOUT="0.3")
            assert outcome(fetched, trick.url) in {"timeout", "tls_error"}
        else:
            assert outcome(fetched, trick.url) == "a secret from inside"
        # Then a server inside is reached, so the tests above can fail
        assert world.reached[-1] != PUBLIC
        wait_for(lambda: world.visits_inside)
