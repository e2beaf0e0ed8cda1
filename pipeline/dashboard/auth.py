"""Controls access to the pages and actions.

- The Host header must be a known name, so that foreign names which resolve to this machine are refused (DNS rebinding).
- If a token is set, every page except the login needs it: in the cookie that the login sets, or as a bearer token.
- Every action is a POST from a page of the dashboard: its origin is checked, and the form contains a CSRF token.
- The headers of every response restrict the browser to this origin.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import math
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlencode, urlsplit

from pydantic import SecretStr
from starlette.datastructures import FormData, Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.dashboard.sessions import SESSION, Sessions, Throttle

logger = logging.getLogger(__name__)

#: Name of the session cookie.
COOKIE = "image_pipeline_dashboard"

#: Maximum size of a form in bytes, and maximum number of its fields.
MAX_FORM = 64 * 1024
MAX_FIELDS = 40

#: Delay after a wrong token, in seconds.
WRONG_TOKEN_DELAY = 1.0

#: Paths without a token: the login, its static files and the liveness probe.
OPEN_PATHS = frozenset({"/login", "/livez"})
STATIC = "/static/"

#: Host names and addresses of this machine itself.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Sends no referrer to other sites. With `no-referrer`, browsers would send `Origin: null` with the forms here too.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Access:
    """The rules of access.

    Attributes:
        names: Accepted host names.
        any_address: Whether the server listens on all addresses; any IP address is then an accepted host.
        token: The token, if one is set.
        csrf: The CSRF token in every form, which other sites cannot read. Each process has a new one.
        sessions: The sessions of visitors who gave the token.
        https: Whether visitors come over HTTPS, so that the cookie of a session may be for HTTPS alone.
        throttle: Limits the wrong tokens of each client.
    """

    names: frozenset[str]
    any_address: bool = False
    token: SecretStr | None = None
    https: bool = False
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    sessions: Sessions = field(default_factory=Sessions, repr=False)
    throttle: Throttle = field(default_factory=Throttle, repr=False)

    @classmethod
    def for_host(cls, host: str, token: SecretStr | None, also: Collection[str] = (), *, https: bool = False) -> Access:
        """Make the rules for a server that listens on `host`; `also` has further names, for example of a proxy."""
        try:
            any_address = ipaddress.ip_address(host).is_unspecified
        except ValueError:
            any_address = False
        return cls(LOOPBACK | {host.lower(), *(name.lower() for name in also)}, any_address, token, https)

    def knows(self, host: str) -> bool:
        """Return whether a Host header names this server."""
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

    def accepts(self, given: str, client: str) -> bool:
        """Return whether `given` is the token. The right one always is, whatever others send from the same address.

        Raises:
            HTTPException: 429, it is wrong, and `client` has sent too many wrong ones.
        """
        wanted = self.token.get_secret_value() if self.token else ""
        if wanted and hmac.compare_digest(given.encode(), wanted.encode()):
            return True
        if wait := self.throttle.wait_for(client):
            headers = {"Retry-After": str(math.ceil(wait))}
            raise HTTPException(429, "Too many wrong tokens came from your address. Try again later.", headers)
        self.throttle.failed(client)
        return False

    def admits(self, headers: Headers, client: str) -> bool:
        """Return whether a request has a valid token or session, or needs none.

        Raises:
            HTTPException: 429, `client` has sent too many wrong tokens.
        """
        if self.token is None:
            return True
        if (bearer := _bearer(headers)) is not None:
            return self.accepts(bearer, client)
        return self.sessions.is_valid(cookie_of(headers))


class Guard:
    """ASGI middleware that refuses forbidden requests, and sets security headers on all responses."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # WebSockets are not supported
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-cache" if scope["path"].startswith(STATIC) else "no-store")
            await send(message)

        try:
            answer = self._refusal(scope) or self.app
        except HTTPException as error:
            answer = PlainTextResponse(error.detail, error.status_code, error.headers)
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the response that refuses a request, or None if it is allowed.

        Raises:
            HTTPException: 429, its client has sent too many wrong tokens.
        """
        headers = Headers(scope=scope)
        if not self._access.knows(headers.get("host", "")):
            return PlainTextResponse("This host name is not known here: see --host and --name.", 421)
        method, path = scope["method"], scope["path"]
        if method not in {"GET", "HEAD", "POST"}:
            return PlainTextResponse("Only GET and POST are supported.", 405, {"Allow": "GET, HEAD, POST"})
        if method == "POST" and (reason := _cross_site(headers)):
            return PlainTextResponse(reason, 403)
        if path in OPEN_PATHS or path.startswith(STATIC) or self._access.admits(headers, client_of(scope)):
            return None
        if method == "GET" and _bearer(headers) is None and "text/html" in headers.get("accept", ""):
            return RedirectResponse(_login_for(scope), 303)
        return PlainTextResponse("A token is required.", 401, {"WWW-Authenticate": "Bearer"})


def _login_for(scope: Scope) -> str:
    """Return the address of the login that leads back to the requested page."""
    query = scope.get("query_string", b"").decode("latin-1")
    wanted = f"{scope['path']}?{query}" if query else scope["path"]
    return "/login" if wanted == "/" else f"/login?{urlencode({'to': wanted})}"


def local_page(to: str) -> str:
    """Return `to` if it is a page of this dashboard, otherwise the overview."""
    return to if re.fullmatch(r"/[a-z][^\\\x00-\x20]*|/", to) else "/"


def _cross_site(headers: Headers) -> str:
    """Return why a POST is refused by its headers: it comes from another site, or is too large; empty if it is fine."""
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return "This request comes from another site."
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        return "This request comes from another site."
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers:
        return "A form must be sent with its Content-Length, not in chunks."
    if not (length.isascii() and length.isdigit() and int(length) <= MAX_FORM):
        return "The form is too large, or its Content-Length is missing."
    return ""


def _bearer(headers: Headers) -> str | None:
    kind, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else None


def client_of(scope: Scope) -> str:
    """Return the address of the client, which is that of the proxy if there is one."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def cookie_of(headers: Headers) -> str:
    """Return the value of the session cookie; empty without one."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


async def checked_form(request: Request, access: Access) -> FormData:
    """Parse the form of an action, and check its CSRF token.

    Raises:
        HTTPException: 403, the CSRF token is missing or from another process.
    """
    form = await request.form(max_files=0, max_fields=MAX_FIELDS)
    if access.token is not None and _bearer(request.headers) is not None:
        return form  # browsers do not send this header by themselves, and the guard has checked it
    given = form.get("csrf")
    if not (isinstance(given, str) and hmac.compare_digest(given.encode(), access.csrf.encode())):
        raise HTTPException(
            403, "The dashboard has restarted since this page was loaded. Reload the page, and try again."
        )
    return form


async def log_in(given: str, access: Access, client: str, *, to: str = "/") -> Response | None:
    """Return the response that starts a session, or None, after a delay, if the token is wrong.

    Raises:
        HTTPException: 429, `client` has sent too many wrong tokens.
    """
    if not access.accepts(given, client):
        await asyncio.sleep(WRONG_TOKEN_DELAY)
        return None
    logger.info("A visitor from %s logged in.", client)
    response = RedirectResponse(local_page(to), 303)
    response.set_cookie(
        COOKIE,
        access.sessions.begin(),
        max_age=SESSION,
        path="/",
        secure=access.https,
        httponly=True,
        samesite="strict",
    )
    return response


def log_out(headers: Headers, access: Access) -> Response:
    """End the session of a request, and return the response that deletes its cookie."""
    access.sessions.end(cookie_of(headers))
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response
