"""The host limiter, with a clock that the tests move and with real servers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from pipeline.errors import NoConnection, Retry, RetryableError, Snoozed
from pipeline.net import host_limits as hosts
from pipeline.net.bulkhead import LONGEST_SNOOZE
from pipeline.net.circuit import FIRST_OPEN_TIME
from pipeline.net.guard import Budget
from pipeline.net.host_limits import (
    MAX_WAITING,
    RESTING_STEP,
    HostLimiter,
    Policy,
)
from pipeline.net.http_errors import http_errors
from pipeline.net.session import fetch_session
from pipeline.stages import Lane
from tests.support.limiter import MAX_FAILURES, OTHER, URL, ask, fail, snooze
from tests.support.moved_clock import MovedClock
from tests.support.untrusted_servers import Remote, Request, always, answer, download, remote, settings
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("no_jitter")


class TestAtATime:
    def test_a_host_serves_four_requests_and_other_hosts_are_not_affected(self, host_limiter: HostLimiter) -> None:
        with ExitStack() as under_way:
            for _ in range(4):
                under_way.enter_context(host_limiter.slot(URL))
            assert snooze(host_limiter).code == "host_busy"
            ask(host_limiter, url=OTHER)
        ask(host_limiter)

    def test_bulk_jobs_leave_one_slot_to_live_jobs(self, host_limiter: HostLimiter) -> None:
        with ExitStack() as under_way:
            for _ in range(3):
                under_way.enter_context(host_limiter.slot(URL, Lane.BULK))
            snooze(host_limiter, lane=Lane.BULK)
            ask(host_limiter)

    def test_a_few_callers_wait_for_a_quick_host_instead_of_being_snoozed(self, host_limiter: HostLimiter) -> None:
        # Given a quick host whose four slots are taken
        ask(host_limiter)
        under_way = ExitStack()
        for _ in range(4):
            under_way.enter_context(host_limiter.slot(URL))
        with threads(MAX_WAITING) as pool:
            # When as many callers as may wait have come, then the next one is snoozed at once.
            asked = [pool.submit(ask, host_limiter) for _ in range(MAX_WAITING)]
            wait_for(lambda: host_limiter._hosts["https://covers.example"].waiting == MAX_WAITING)
            assert snooze(host_limiter).code == "host_busy"
            # When the slots are free, then all of them were served.
            under_way.close()
            assert [each.result(10) for each in asked] == [None] * MAX_WAITING

    def test_callers_that_waited_in_vain_are_snoozed(
        self, host_limiter: HostLimiter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hosts, "LONGEST_WAIT", 0.01)
        ask(host_limiter)
        with ExitStack() as under_way:
            for _ in range(4):
                under_way.enter_context(host_limiter.slot(URL))
            assert snooze(host_limiter).code == "host_busy"

    def test_bulk_jobs_may_use_a_hosts_only_slot(self) -> None:
        with HostLimiter(Policy(1)).slot(URL, Lane.BULK):
            pass


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://covers.example/a.jpg", "https://covers.example"),
        ("https://COVERS.example.:443/", "https://covers.example"),
        ("https://user:secret@covers.example/b?c#d", "https://covers.example"),
        (r"https://covers.example\@other.example/", "https://covers.example"),
        ("https://covers.example:8443/", "https://covers.example:8443"),
        ("https://covers.example:80/", "https://covers.example:80"),
        ("http://covers.example:80/", "http://covers.example"),
        ("https://covers.example../", "https://covers.example."),
        *((url, "") for url in ("", "no url", "http://[::1/", "http://host:port/", "http:///path", "ftp://host/")),
    ],
)
def test_a_host_is_a_scheme_a_name_and_a_port_however_they_are_written(url: str, host: str) -> None:
    host_limiter = HostLimiter(Policy(1))
    with host_limiter.slot(url):
        assert list(host_limiter._hosts) == ([host] if host else [])


class TestSnoozes:
    def test_snoozes_follow_the_hosts_speed(self, host_limiter: HostLimiter, clock: MovedClock) -> None:
        # Given a host that takes 8 s for a request
        for _ in range(40):
            with host_limiter.slot(URL):
                clock.now += 8
        with ExitStack() as under_way:
            for _ in range(4):
                under_way.enter_context(host_limiter.slot(URL))
            # Then each of five jobs is to return when another slot becomes free.
            assert [round(snooze(host_limiter).wait) for _ in range(5)] == [2, 4, 6, 8, 10]

    @pytest.mark.unmeasured
    @pytest.mark.parametrize("lane", Lane)
    def test_snoozes_grow_with_the_crowd(self, host_limiter: HostLimiter, clock: MovedClock, lane: Lane) -> None:
        with ExitStack() as under_way:
            for _ in range(4):
                under_way.enter_context(host_limiter.slot(URL))
            waits = [snooze(host_limiter, lane=lane).wait for _ in range(30_000)]
        # The assumed request takes 0.5 s, so 1,000 jobs need two minutes,
        assert waits == sorted(waits)
        assert waits[999] == pytest.approx(1000 * 0.5 / (4 if lane is Lane.LIVE else 3))
        # and no job waits longer than an hour with its jitter.
        assert max(waits) == LONGEST_SNOOZE

    def test_a_host_with_nothing_to_do_forgets_its_crowd(self, host_limiter: HostLimiter) -> None:
        # Given a large crowd, whose jobs other processes have done since
        with ExitStack() as under_way:
            for _ in range(4):
                under_way.enter_context(host_limiter.slot(URL))
            for _ in range(1000):
                snooze(host_limiter)
        # When the host was idle and is busy again, then the next job waits for the requests in progress alone.
        with ExitStack() as under_way:
            for _ in range(4):
                under_way.enter_context(host_limiter.slot(URL))
            assert snooze(host_limiter).wait < 1

    @pytest.mark.unmeasured
    def test_the_crowd_of_a_resting_host_returns_one_by_one(self, host_limiter: HostLimiter) -> None:
        # Given a host that refuses connections at once
        fail(host_limiter)
        # Then its jobs return after its rest, at a rate that costs little, and within an hour.
        waits = [snooze(host_limiter).wait for _ in range(31_000)]
        assert waits[0] == pytest.approx(FIRST_OPEN_TIME + RESTING_STEP)
        assert waits[999] == pytest.approx(FIRST_OPEN_TIME + 1000 * RESTING_STEP)
        assert max(waits) == LONGEST_SNOOZE


# With real servers.


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(count) as pool:
        yield pool


def test_a_dead_server_is_left_alone_and_a_redirect_to_it_does_not_count_against_its_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8")
    host_limiter = HostLimiter(Policy(4))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}/"

        def behave(_: Remote, request: Request) -> Iterator[bytes]:
            yield answer(200, b"picture") if request.path == "/own.jpg" else answer(302, b"", f"Location: {dead}")

        with remote(behave) as redirecting:
            # Given a server that redirects to a dead one
            for n in range(MAX_FAILURES):
                with pytest.raises(NoConnection, match="unreachable"):
                    download(redirecting.url(), partial(host_limiter.slot, folder=f"FOLDER-{n}"))
            # Then the dead one is not asked any more, directly or by the redirect,
            for url in (dead, redirecting.url()):
                with pytest.raises(Snoozed, match="host_resting"):
                    download(url, partial(host_limiter.slot, folder="FOLDER-0"))
            # and the other server's own covers are still fetched.
            assert download(redirecting.url("/own.jpg"), host_limiter.slot) == b"picture"


@pytest.mark.parametrize("by_redirect", [False, True])
def test_https_urls_at_a_plain_http_server_do_not_rest_it(monkeypatch: pytest.MonkeyPatch, by_redirect: bool) -> None:
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8")
    host_limiter = HostLimiter(Policy(4))

    def behave(server: Remote, request: Request) -> Iterator[bytes]:
        wrong = server.url(request.path).replace("http:", "https:")
        yield answer(302, b"", f"Location: {wrong}") if request.path.startswith("/wrong") else answer(200, b"picture")

    with remote(behave, refuses_tls=True) as server:
        # Given a feed with 40 URLs of another scheme at the port of an honest host
        for n in range(40):
            url = server.url(f"/wrong-{n}")
            with pytest.raises(RetryableError):
                download(url if by_redirect else url.replace("http:", "https:"), host_limiter.slot)
        # Then only that scheme rests, and the honest covers are fetched.
        with pytest.raises(Snoozed, match="host_resting"):
            download(server.url().replace("http:", "https:"), host_limiter.slot)
        assert download(server.url(), host_limiter.slot) == b"picture"


def test_a_host_is_not_blamed_for_time_that_earlier_redirects_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8")
    host_limiter, spent = HostLimiter(Policy(4)), Budget(seconds=0, wire_bytes=1000)
    with remote(always(answer(200, b"picture"))) as honest:
        for n in range(MAX_FAILURES):
            url = honest.url(f"/{n}")
            with (
                pytest.raises(RetryableError, match="timeout"),
                host_limiter.slot(url),
                http_errors(url, Retry.SOURCE, spent),
            ):
                fetch_session().request("GET", url, timeout=5)
    assert not host_limiter.open_circuits
