"""Access to the dashboard and its actions: on a real socket, with nothing behind it."""

from __future__ import annotations

import http.client
import socket
from typing import Any
from urllib.parse import quote

import pytest
import requests
from pydantic import SecretStr
from starlette.routing import Route
from typer.testing import CliRunner

from pipeline.cli.app import app as command_line
from pipeline.clients import lazy, mongo
from pipeline.dashboard.auth import COOKIE, MAX_FORM, Access, is_loopback
from pipeline.dashboard.sessions import MAX_WRONG_TOKENS, WINDOW
from pipeline.errors import SettingsError
from pipeline.settings import get_settings
from tests.support.dashboard import HUSH, TOKEN, Page, Site, closed_port, serving
from tests.support.waiting import wait_for

# The host name.


@pytest.mark.parametrize(
    ("listens_on", "host", "known"),
    [
        ("127.0.0.1", "127.0.0.1:8480", True),
        ("127.0.0.1", "localhost:8480", True),
        ("127.0.0.1", "LOCALHOST", True),
        ("127.0.0.1", "[::1]:8480", True),
        ("127.0.0.1", "rebound.example.org:8480", False),
        ("127.0.0.1", "127.0.0.1.example.org", False),
        ("127.0.0.1", "localhost.example.org", False),
        ("127.0.0.1", "user@127.0.0.1", True),  # The host is the part after the @.
        ("127.0.0.1", "127.0.0.1@example.org", False),
        ("127.0.0.1", "10.0.0.5:8480", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "[::1", False),
        ("127.0.0.1", "localhost:port", False),
        ("10.0.0.5", "10.0.0.5:8480", True),
        ("10.0.0.5", "10.0.0.6:8480", False),
        ("0.0.0.0", "10.0.0.6:8480", True),  # An address is not a name that an attacker could point here.
        ("::", "[fe80::1]:8480", True),
        ("0.0.0.0", "rebound.example.org", False),
        ("0.0.0.0", "covers.example.org", True),
    ],
)
def test_only_our_hosts_are_known(listens_on: str, host: str, known: bool) -> None:
    access = Access.for_host(listens_on, None, ["Covers.example.org"] if listens_on == "0.0.0.0" else [])
    assert access.knows(host) is known


@pytest.mark.parametrize("path", ["/", "/login", "/livez", "/static/dashboard.css", "/nowhere"])
def test_a_foreign_host_name_is_refused_everywhere(site: Site, path: str) -> None:
    answer = site.get(path, Host=f"rebound.example.org:{site.port}")
    assert answer.status_code == 421
    assert "Stages" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_loopback_is_distinguished_from_reachable_addresses(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "example.org", "192.168.1.1"])
def test_any_other_address_needs_a_token(nothing_behind: pytest.MonkeyPatch, host: str) -> None:
    assert not is_loopback(host)
    result = CliRunner().invoke(command_line, ["dashboard", "--host", host])
    assert isinstance(result.exception, SettingsError)
    assert "DASHBOARD_TOKEN" in str(result.exception)


@pytest.mark.parametrize("token", ["short", "15 characters .."])
def test_a_short_token_is_refused(
    nothing_behind: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("DASHBOARD_TOKEN", token[:15])
    get_settings.cache_clear()
    result = CliRunner().invoke(command_line, ["dashboard"])
    get_settings.cache_clear()
    assert isinstance(result.exception, SettingsError)
    assert "DASHBOARD_TOKEN" in str(result.exception)
    assert "16 characters" in str(result.exception)
    assert token[:15] not in str(result.exception)


def test_a_port_in_use_is_named(nothing_behind: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(command_line, ["dashboard", "--port", str(port)])
    assert result.exit_code == 2
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use." in " ".join(
        result.output.replace("│", "").split()
    )


# The token.


@pytest.mark.parametrize("path", ["/", "/jobs", "/jobs/x", "/failures", "/sweeps", "/nowhere", "/thumbnails/x/0/50x50"])
def test_without_the_token_pages_redirect_to_the_login(locked: Site, path: str) -> None:
    answer = locked.get(path)
    to = "/login" if path == "/" else f"/login?to={quote(path, safe='')}"
    assert (answer.status_code, answer.headers["location"]) == (303, to)
    assert locked.get(path, Accept="application/json").status_code == 401


@pytest.mark.parametrize(
    ("to", "leads_to"),
    [
        ("/jobs/x?a=1", "/jobs/x?a=1"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("/jobs\r\nX: 1", "/"),
        ("", "/"),
    ],
)
def test_the_login_leads_to_the_page_that_was_asked_for_and_to_no_other_site(
    locked: Site, to: str, leads_to: str
) -> None:
    assert 'name="to" value="/jobs/x?a=1"' in locked.get("/login?to=/jobs/x%3Fa%3D1").text
    assert locked.post("/login", {"token": TOKEN, "to": to}).headers["location"] == leads_to


def test_the_token_grants_a_cookie_that_does_not_contain_it(locked: Site) -> None:
    # When a visitor gives the token
    answer = locked.post("/login", {"token": TOKEN})
    # Then a cookie that scripts and other sites' pages cannot use lets them in
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    given = cookie.partition(";")[0]
    assert locked.get("/", Cookie=given).status_code == 200
    # and logging out deletes the cookie, and ends the session for everyone who has it
    out = locked.post("/logout", Cookie=given)
    assert out.headers["location"] == "/login"
    assert f'{COOKIE}=""' in out.headers["set-cookie"]
    assert "Max-Age=0" in out.headers["set-cookie"]
    assert locked.get("/", Cookie=given).status_code == 303


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], f"{TOKEN} ", TOKEN.upper(), "täken"])
def test_a_wrong_token_is_refused(locked: Site, token: str) -> None:
    answer = locked.post("/login", {"token": token})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "This token is wrong." in Page(answer.text).text


@pytest.mark.parametrize("https", [False, True])
@pytest.mark.parametrize("forwarded", ["http", "https"])
def test_the_operator_and_no_header_decides_whether_the_cookie_is_for_https_alone(
    nothing_behind: pytest.MonkeyPatch, https: bool, forwarded: str
) -> None:
    with serving(Access.for_host("127.0.0.1", SecretStr(TOKEN), https=https)) as site:
        answer = site.post("/login", {"token": TOKEN}, X_Forwarded_Proto=forwarded)
    assert ("secure" in answer.headers["set-cookie"].lower()) is https


def test_forged_cookies_are_refused(locked: Site) -> None:
    good = locked.access.sessions.begin()
    other = Access.for_host("127.0.0.1", SecretStr(TOKEN)).sessions.begin()
    for value in ("", ".", good[:-1], f"{good}0", good.swapcase(), other, TOKEN):
        assert locked.get("/", Cookie=f"{COOKIE}={value}").status_code == 303, value
    assert locked.get("/", Cookie=f"{COOKIE}={good}").status_code == 200


@pytest.mark.parametrize("way", ["login", "bearer"])
def test_guesses_are_logged_and_throttled(locked: Site, caplog: pytest.LogCaptureFixture, way: str) -> None:
    def guess(token: str) -> requests.Response:
        if way == "login":
            return locked.post("/login", {"token": token})
        return locked.get("/", Authorization=f"Bearer {token}")

    # Given a visitor with a session, and a client that guesses
    session = locked.access.sessions.begin()
    assert [guess(f"guess {n}").status_code for n in range(MAX_WRONG_TOKENS)] == [401] * MAX_WRONG_TOKENS
    # Then further guesses are refused, each of the first was logged without its token,
    refused = guess("another guess")
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= WINDOW
    assert caplog.text.count("A wrong token came from 127.0.0.1") == MAX_WRONG_TOKENS
    assert "guess" not in caplog.text
    # and who has the token or a session is not affected, because all clients of a proxy share its address.
    assert guess(TOKEN).status_code == {"login": 303, "bearer": 200}[way]
    assert locked.get("/", Cookie=f"{COOKIE}={session}").status_code == 200


def test_programs_may_send_the_token_as_a_bearer(locked: Site) -> None:
    assert locked.get("/", Authorization=f"Bearer {TOKEN}").status_code == 200
    assert locked.get("/", Authorization="Bearer wrong").status_code == 401
    assert locked.get("/", Authorization=f"Basic {TOKEN}").status_code == 303
    # and then need no form token
    answer = locked.post("/submit", {"csrf": "", "url": "nonsense"}, Authorization=f"Bearer {TOKEN}")
    assert answer.status_code == 422


def test_a_good_cookie_does_not_excuse_a_wrong_bearer(locked: Site) -> None:
    cookie = f"{COOKIE}={locked.access.sessions.begin()}"
    assert locked.get("/", Cookie=cookie, Authorization="Bearer wrong").status_code == 401


# Cross-site posts.


def actions(site: Site) -> list[str]:
    return [route.path for route in site.app.routes if isinstance(route, Route) and "POST" in (route.methods or ())]


ELSEWHERE: list[dict[str, str]] = [
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "none"},
    {"Origin": "https://example.org"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": ""},
]


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_no_action_accepts_a_cross_site_post(site: Site, headers: dict[str, str]) -> None:
    assert set(actions(site)) == {
        *("/submit", "/count", "/redrive", "/purge", "/jobs/{job_id}/redrive", "/jobs/{job_id}/deliver"),
        *("/sweeps/start", "/sweeps/stop", "/workers/pause", "/try-now", "/login", "/logout"),
    }
    for path in actions(site):
        assert site.post(path, **headers).status_code == 403, path


@pytest.mark.parametrize("csrf", ["", "wrong", "ä"])
def test_no_action_accepts_a_form_without_this_processs_token(site: Site, csrf: str) -> None:
    for path in actions(site):
        answer = site.post(path, {"csrf": csrf})
        assert answer.status_code == 403, path
        assert "Reload the page" in Page(answer.text).text
    form_without = requests.post(site.url("/redrive"), data={"stage": "fetch"}, timeout=30)
    assert form_without.status_code == 403


def test_a_form_token_of_another_process_is_refused(site: Site) -> None:
    with serving() as other:
        assert other.access.csrf != site.access.csrf
        assert site.post("/submit", {"csrf": other.access.csrf}).status_code == 403


def test_actions_accept_only_posts(site: Site) -> None:
    for path in ("/redrive", "/logout"):
        assert site.get(path).status_code == 405, path
    assert site.get("/submit").headers["location"] == "/"  # This only redirects back.
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert requests.request(method, site.url("/"), timeout=30).status_code == 405, method


def test_a_form_that_is_too_large_or_without_a_length_is_refused(site: Site) -> None:
    assert site.post("/submit", {"url": "x" * MAX_FORM}).status_code == 403
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.request("POST", "/submit", body=iter([b"url=x"]), encode_chunked=True)
    assert connection.getresponse().status == 403
    connection.close()


def test_a_form_with_a_file_is_refused(site: Site) -> None:
    answer = requests.post(site.url("/submit"), data={"csrf": site.access.csrf}, files={"url": ("a", b"b")}, timeout=30)
    assert answer.status_code == 400


# Headers of every answer.


@pytest.mark.parametrize(
    "path", ["/", "/jobs", "/failures", "/sweeps", "/nowhere", "/login", "/livez", "/static/dashboard.js"]
)
@pytest.mark.parametrize("host", ["127.0.0.1", "rebound.example.org"])
def test_every_answer_restricts_browsers_to_this_origin(site: Site, path: str, host: str) -> None:
    headers = site.get(path, Host=host).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "server" not in headers
    assert headers["cache-control"] == ("no-cache" if path.startswith("/static") else "no-store")


def test_an_error_of_ours_is_answered_with_the_same_protection(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError(HUSH)

    monkeypatch.setattr("pipeline.dashboard.views.flow.cards", broken)
    answer = site.get("/")
    assert answer.status_code == 500
    assert "The dashboard failed with RuntimeError" in Page(answer.text).text
    assert HUSH not in answer.text
    assert "default-src 'self'" in answer.headers["content-security-policy"]


PAGES = ["/", "/jobs", "/jobs?outcome=failed", "/jobs/none", "/failures", "/sweeps", "/login", "/nowhere"]


@pytest.mark.parametrize("path", PAGES)
def test_pages_load_nothing_from_outside_and_contain_no_inline_code(site: Site, path: str) -> None:
    page = Page(site.get(path).text)
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        for name in ("src", "href", "action"):
            assert attributes.get(name, "/").startswith(("/", "#")), (tag, attributes)
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == ([{"src": "/static/dashboard.js", "defer": ""}] if scripts else [])


def test_no_page_shows_a_secret(nothing_behind: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given databases that do not answer, whose URLs contain passwords
    for name in ("MONGO_URL", "JOBS_MONGO_URL"):
        monkeypatch.setenv(name, f"mongodb://user:{HUSH}-{name.lower()}@127.0.0.1:{closed_port()}/db")
    monkeypatch.setattr(mongo, "SHORT_TIMEOUT", 0.2)
    lazy.forget()
    with serving(Access.for_host("127.0.0.1", SecretStr(TOKEN))) as site:
        # When the page shows the error
        wait_for(lambda: "The sweeps cannot be read" in site.get("/", Authorization=f"Bearer {TOKEN}").text)
        # Then it explains the error without any secret
        for path in PAGES:
            answer = site.get(path, Authorization=f"Bearer {TOKEN}")
            assert HUSH not in answer.text, path
            assert TOKEN not in answer.text, path
    lazy.forget()


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_only_the_pages_own_files_are_served(site: Site, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 404
    assert b"import" not in answer.read()
    connection.close()


def test_it_reports_that_it_is_alive(locked: Site) -> None:
    answer: Any = locked.get("/livez")
    assert (answer.status_code, answer.text) == (200, "ok")
