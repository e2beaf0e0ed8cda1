"""Who may look, and who may act.

- The Host header must be one of ours: no stranger's name that resolves to this machine reaches it (DNS rebinding).
- Where a token is set, every page but the login wants it: as a cookie that the login sets, or as a bearer token.
- What changes something is a POST from a page of ours: its origin is checked, and it carries a token of this process.
- Every answer carries headers that keep a browser to this origin.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.datastructures import FormData, Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The cookie of somebody who gave the token, and how long it holds, in seconds.
COOKIE = "image_pipeline_dashboard"
SESSION = 12 * 3600

#: Bytes of a form, and of its fields: more than any of ours needs.
MAX_FORM = 64 * 1024
MAX_FIELDS = 40

#: Seconds that a wrong token costs.
WRONG_TOKEN_PAUSE = 1.0

#: What needs no token: the login, what it looks like, and whether this process lives.
OPEN_PATHS = frozenset({"/login", "/livez"})
STATIC = "/static/"

#: How browsers call this machine.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Nothing goes to other sites. With `no-referrer` browsers would send `Origin: null` with our own forms too.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Access:
    """Who is let in: the names this server goes by, and the token, where one is set.

    `csrf` is in every form of ours; no other site can read it. A new process has a new one.
    """

    names: frozenset[str]
    any_address: bool = False  #: it listens on all addresses: a Host that is an address can be no stranger's name
    token: SecretStr | None = None
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @classmethod
    def for_host(cls, host: str, token: SecretStr | None, also: Collection[str] = ()) -> Access:
        """What serves on `host`, and is called by the names in `also` too, behind a proxy for example."""
        try:
            any_address = ipaddress.ip_address(host).is_unspecified
        except ValueError:
            any_address = False
        return cls(LOOPBACK | {host.lower(), *(name.lower() for name in also)}, any_address, token)

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            _ = urlsplit(f"//{host}").port
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address

    def accepts(self, given: str) -> bool:
        """Whether `given` is the token."""
        wanted = self.token.get_secret_value() if self.token else ""
        return bool(wanted) and hmac.compare_digest(given.encode(), wanted.encode())

    def session(self) -> str:
        """A cookie's value that holds for `SESSION` seconds: a proof that the token was known, not the token."""
        until = str(int(time.time()) + SESSION)
        return f"{until}.{self._proof(until)}"

    def admits(self, headers: Headers) -> bool:
        """Whether a request comes from somebody who knows the token; everybody does where none is set."""
        if self.token is None:
            return True
        if (bearer := _bearer(headers)) is not None:
            return self.accepts(bearer)
        until, _, proof = _cookie(headers).partition(".")
        if not hmac.compare_digest(proof.encode(), self._proof(until).encode()):
            return False
        return until.isascii() and until.isdigit() and int(until) > time.time()

    def _proof(self, until: str) -> str:
        key = self.token.get_secret_value() if self.token else ""
        return hmac.new(key.encode(), f"session until {until}".encode(), hashlib.sha256).hexdigest()


class Guard:
    """What is around `app`: refuses what has no business here, and sets the headers of what it lets in."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self._limited = RequestBodyLimitMiddleware(
            app, MAX_FORM
        )  # counts what comes, whatever a request says of itself
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks anything else
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-cache" if scope["path"].startswith(STATIC) else "no-store")
            await send(message)

        answer = self._refusal(scope) or self._limited
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that is not let in; None for the others."""
        headers = Headers(scope=scope)
        if not self._access.knows(headers.get("host", "")):
            return PlainTextResponse("This server does not go by that name: see --host and --name.", 421)
        method, path = scope["method"], scope["path"]
        if method not in {"GET", "HEAD", "POST"}:
            return PlainTextResponse("Only GET and POST are known here.", 405, {"Allow": "GET, HEAD, POST"})
        if method == "POST" and (reason := _strange(headers)):
            return PlainTextResponse(reason, 403)
        if path in OPEN_PATHS or path.startswith(STATIC) or self._access.admits(headers):
            return None
        if method == "GET" and _bearer(headers) is None and "text/html" in headers.get("accept", ""):
            return RedirectResponse("/login", 303)
        return PlainTextResponse("The token is needed.", 401, {"WWW-Authenticate": "Bearer"})


def _strange(headers: Headers) -> str:
    """Why a POST does not come from a page of ours, as far as the browser says; empty where nothing speaks for it."""
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return "This comes from another site's page."
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        return "This comes from another site's page."
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and int(length) <= MAX_FORM):
        return "The form is too large, or does not say how large it is."
    return ""


def _bearer(headers: Headers) -> str | None:
    kind, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else None


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


async def checked_form(request: Request, access: Access) -> FormData:
    """The fields of a form that a page of ours sent; every action reads its form here.

    Raises:
        HTTPException: 403, the form does not carry this process's token.
    """
    form = await request.form(max_files=0, max_fields=MAX_FIELDS)
    if access.token is not None and _bearer(request.headers) is not None:
        return form  # a browser sends no such header by itself, and the token in it was checked
    given = form.get("csrf")
    if not (isinstance(given, str) and hmac.compare_digest(given.encode(), access.csrf.encode())):
        raise HTTPException(403, "This form is from before the dashboard was started again. Load the page once more.")
    return form


async def log_in(given: str, access: Access, *, over_tls: bool) -> Response | None:
    """The answer that lets somebody in who gave the token; None, after a pause, for a wrong one."""
    if not access.accepts(given):
        await asyncio.sleep(WRONG_TOKEN_PAUSE)
        return None
    response = RedirectResponse("/", 303)
    response.set_cookie(
        COOKIE, access.session(), max_age=SESSION, path="/", secure=over_tls, httponly=True, samesite="strict"
    )
    return response


def log_out() -> Response:
    """The answer that forgets somebody."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response
