"""The host limiter, with a clock that the tests move and with real servers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import pytest

from pipeline.clients import lazy
from pipeline.errors import NoConnection, NoRequest, PermanentError, PipelineError, Retry, RetryableError, Snoozed
from pipeline.net import bulkhead as bulkhead_module
from pipeline.net import host_limits as hosts
from pipeline.net.bulkhead import LONGEST_SNOOZE
from pipeline.net.circuit import FIRST_OPEN_TIME, HOST_DOWN_AFTER, LONGEST_OPEN_TIME, MAX_FAILED_FOLDERS
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
from tests.support.limiter import MAX_FAILURES, OTHER, URL, ask, fail, failing, snooze
from tests.support.moved_clock import MovedClock
from tests.support.untrusted_servers import Remote, Request, always, answer, download, remote, settings
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(bulkhead_module, "JITTER", (1.0, 1.0))
    yield
    lazy.forget()


@pytest.fixture
def host_limiter(clock: MovedClock) -> HostLimiter:
    return HostLimiter(Policy(4), clock)


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


class TestOpenCircuits:
    def test_twenty_failures_to_connect_in_a_row_open_it(self, host_limiter: HostLimiter, clock: MovedClock) -> None:
        fail(host_limiter, MAX_FAILURES - 1)
        ask(host_limiter, failing())
        # Then it is snoozed for the rest of that time, and other hosts are not.
        clock.now += 10
        error = snooze(host_limiter)
        assert error.code == "host_resting"
        assert FIRST_OPEN_TIME - 10 <= error.wait < FIRST_OPEN_TIME - 9
        ask(host_limiter, url=OTHER)

    @pytest.mark.parametrize(
        "error",
        [
            None,
            *(PermanentError(code, "An answer.") for code in ("http_404", "not_an_image", "too_large", "empty")),
            *(RetryableError(code, "A failure.") for code in ("timeout", "incomplete", "http_429", "http_500")),
        ],
        ids=lambda error: error.code if error else "success",
    )
    def test_errors_after_a_connection_end_the_row(
        self, host_limiter: HostLimiter, error: PipelineError | None
    ) -> None:
        fail(host_limiter, MAX_FAILURES - 1)
        ask(host_limiter, error)
        fail(host_limiter, MAX_FAILURES - 1)
        ask(host_limiter)

    def test_a_url_counts_once_in_a_folder(self, host_limiter: HostLimiter) -> None:
        for _ in range(2 * MAX_FAILURES):
            ask(host_limiter, failing())
        for n in range(MAX_FAILURES - 1):
            assert not host_limiter.open_circuits
            ask(host_limiter, failing(), folder=f"FOLDER-{n}")
        assert host_limiter.open_circuits == 1

    def test_a_folder_that_has_not_failed_probes_it_at_once(self, host_limiter: HostLimiter) -> None:
        # Given a host whose circuit one folder opened
        fail(host_limiter)
        # When another folder's request succeeds, one at a time, then the circuit is closed for all.
        with host_limiter.slot(URL, folder="OTHER"):
            snooze(host_limiter, folder="THIRD")
        assert not host_limiter.open_circuits
        ask(host_limiter)

    def test_a_folder_whose_probe_failed_waits_like_the_others(
        self, host_limiter: HostLimiter, clock: MovedClock
    ) -> None:
        fail(host_limiter)
        ask(host_limiter, failing(), folder="OTHER")
        # Then it waits, the probe of the other folder did not prolong the rest,
        assert snooze(host_limiter, folder="OTHER").wait <= FIRST_OPEN_TIME + 1
        # and a third folder may probe it.
        ask(host_limiter, folder="THIRD")

    def test_the_folders_that_may_probe_it_at_once_are_limited(self, host_limiter: HostLimiter) -> None:
        fail(host_limiter)
        for n in range(MAX_FAILED_FOLDERS - 1):
            ask(host_limiter, failing(), folder=f"FOLDER-{n}")
        snooze(host_limiter, folder="OTHER")

    @pytest.mark.parametrize("code", ["bad_url", "blocked_address"])
    def test_errors_without_a_request_do_not_count(self, host_limiter: HostLimiter, code: str) -> None:
        fail(host_limiter, MAX_FAILURES - 1)
        ask(host_limiter, NoRequest(code, "Not asked."))
        fail(host_limiter, 1)
        snooze(host_limiter)

    def test_one_trial_request_closes_it_if_it_succeeds(self, host_limiter: HostLimiter, clock: MovedClock) -> None:
        fail(host_limiter)
        clock.now += FIRST_OPEN_TIME
        with host_limiter.slot(URL):
            snooze(host_limiter)
        with host_limiter.slot(URL), host_limiter.slot(URL):
            pass

    @pytest.mark.parametrize("meant", ["covers.example", URL, f"{URL}?a=b", ""])
    def test_an_operator_closes_it(self, host_limiter: HostLimiter, meant: str) -> None:
        fail(host_limiter)
        snooze(host_limiter)
        # When another host is meant, then it stays open.
        host_limiter.release("covers.example.org")
        snooze(host_limiter)
        # When it is meant, then requests go through.
        host_limiter.release(meant)
        with host_limiter.slot(URL), host_limiter.slot(URL):
            pass

    def test_a_server_that_still_fails_rests_again_soon_after_an_operator_closed_it(
        self, host_limiter: HostLimiter
    ) -> None:
        fail(host_limiter)
        host_limiter.release(URL)
        fail(host_limiter)
        snooze(host_limiter)

    def test_it_stays_open_longer_each_time_the_trial_request_fails(
        self, host_limiter: HostLimiter, clock: MovedClock
    ) -> None:
        open_times = []
        fail(host_limiter)
        for _ in range(6):
            open_times.append(host_limiter._hosts["https://covers.example"].circuits[""].open_time.wait)
            clock.now += open_times[-1]
            fail(host_limiter, 1)
        assert open_times == [30, 60, 120, 240, 300, 300]

    def test_requests_from_before_it_opened_do_not_prolong_it(
        self, host_limiter: HostLimiter, clock: MovedClock
    ) -> None:
        under_way = [host_limiter.slot(URL) for _ in range(3)]
        for slot in under_way:
            slot.__enter__()
        fail(host_limiter)
        for slot in under_way:
            slot.__exit__(RetryableError, failing("timeout"), None)
        assert host_limiter._hosts["https://covers.example"].circuits[""].open_time.wait == FIRST_OPEN_TIME

    def test_no_trial_request_goes_while_one_from_before_it_opened_is_under_way(
        self, host_limiter: HostLimiter, clock: MovedClock
    ) -> None:
        with host_limiter.slot(URL):
            fail(host_limiter)
            clock.now += FIRST_OPEN_TIME
            snooze(host_limiter)
        ask(host_limiter)

    @pytest.mark.parametrize(
        ("took", "longest"), [(0.01, FIRST_OPEN_TIME), (5.0, 100.0), (60.0, LONGEST_OPEN_TIME)],
        ids=["refuses at once", "takes seconds", "hangs"],
    )  # fmt: skip
    def test_a_probe_takes_little_of_the_time_and_a_host_that_refuses_at_once_is_probed_often(
        self, host_limiter: HostLimiter, clock: MovedClock, took: float, longest: float
    ) -> None:
        # Given a host that has been down for half an hour, whose requests fail after so many seconds
        fail(host_limiter)
        until = clock.now + 1800
        circuit = host_limiter._hosts["https://covers.example"].circuits[""]
        while clock.now < until:
            clock.now = circuit.open_until
            with suppress(PipelineError), host_limiter.slot(URL, folder="FOLDER"):
                clock.now += took
                raise failing()
        # Then it is known soon enough that it answers again, and a hanging host takes no more of a thread than before.
        assert circuit.open_until - clock.now == pytest.approx(longest)

    def test_a_killed_thread_does_not_count(self, host_limiter: HostLimiter, clock: MovedClock) -> None:
        fail(host_limiter)
        clock.now += FIRST_OPEN_TIME
        with pytest.raises(KeyboardInterrupt), host_limiter.slot(URL):
            raise KeyboardInterrupt
        with host_limiter.slot(URL):
            snooze(host_limiter)

    def test_a_host_that_is_down_for_an_hour_costs_attempts_so_that_every_job_ends(
        self, host_limiter: HostLimiter, clock: MovedClock
    ) -> None:
        fail(host_limiter)
        until = clock.now + HOST_DOWN_AFTER
        while clock.now <= until:
            clock.now += LONGEST_OPEN_TIME
            fail(host_limiter, 1)
        with pytest.raises(RetryableError) as caught:
            ask(host_limiter)
        assert (caught.value.code, caught.value.retry) == ("host_down", Retry.SOURCE)
        assert not isinstance(caught.value, Snoozed)
        # It is still tried now and then.
        clock.now += LONGEST_OPEN_TIME
        ask(host_limiter)
        ask(host_limiter)


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
