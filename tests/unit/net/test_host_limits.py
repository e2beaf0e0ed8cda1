"""Whose turn it is: with a clock that the tests move, and with real servers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from pipeline.clients import lazy
from pipeline.errors import PermanentError, PipelineError, PutOff, Retry, RetryableError
from pipeline.net import host_limits as hosts
from pipeline.net.download import download
from pipeline.net.host_limits import FIRST_REST, LONGEST_REST, LONGEST_WAIT, MAX_FAILURES, PATIENCE, Manners
from pipeline.stages import Lane
from tests.support.untrusted_servers import Request, Stranger, always, answer, settings, stranger
from tests.support.waiting import wait_for

URL, OTHER = "https://covers.example/a.jpg", "https://other.example/a.jpg"


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hosts, "JITTER", (1.0, 1.0))
    yield
    lazy.forget()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def manners(clock: Clock) -> Manners:
    return Manners(4, clock)


def failing(code: str) -> PipelineError:
    return RetryableError(code, "A failure.", retry=Retry.SOURCE)


def ask(manners: Manners, error: PipelineError | None = None, url: str = URL) -> None:
    """One request that ends so."""
    try:
        with manners.turn(url):
            if error:
                raise error
    except PipelineError as raised:
        if raised is not error:
            raise


def fail(manners: Manners, times: int = MAX_FAILURES, code: str = "unreachable") -> None:
    for _ in range(times):
        ask(manners, failing(code))


def put_off(manners: Manners, url: str = URL, lane: Lane = Lane.LIVE) -> PutOff:
    with pytest.raises(PutOff) as caught, manners.turn(url, lane):
        pass
    return caught.value


class TestAtATime:
    def test_four_to_a_host_and_any_number_to_others(self, manners: Manners) -> None:
        with ExitStack() as under_way:
            for _ in range(4):
                under_way.enter_context(manners.turn(URL))
            assert put_off(manners).code == "host_busy"
            ask(manners, url=OTHER)
        ask(manners)

    def test_a_bulk_job_leaves_one_turn_to_live_ones(self, manners: Manners) -> None:
        with ExitStack() as under_way:
            for _ in range(3):
                under_way.enter_context(manners.turn(URL, Lane.BULK))
            put_off(manners, lane=Lane.BULK)
            ask(manners)

    def test_where_one_is_the_limit_bulk_jobs_may_have_it(self) -> None:
        with Manners(1).turn(URL, Lane.BULK):
            pass

    @pytest.mark.parametrize(
        "url",
        ["http://covers.example/", "https://COVERS.example.:443/", "https://user:secret@covers.example/b?c#d"],
    )
    def test_a_host_is_one_however_it_is_written(self, url: str) -> None:
        manners = Manners(1)
        with manners.turn(URL):
            assert "secret" not in str(put_off(manners, url))

    def test_a_server_on_another_port_is_another(self) -> None:
        manners = Manners(1)
        with manners.turn(URL), manners.turn("https://covers.example:8443/"):
            pass

    @pytest.mark.parametrize("url", ["", "no url", "http://[::1/", "http://host:port/", "http:///path"])
    def test_what_is_no_url_is_let_through_to_those_who_say_so(self, url: str) -> None:
        with Manners(1).turn(url), Manners(1).turn(url):
            pass


class TestWhenToComeAgain:
    def test_one_by_one_as_fast_as_the_host_has_worked(self, manners: Manners, clock: Clock) -> None:
        # Given a host that takes 8 s for a request
        for _ in range(40):
            with manners.turn(URL):
                clock.now += 8
        with ExitStack() as under_way:
            for _ in range(4):
                under_way.enter_context(manners.turn(URL))
            # Then of five that come, each is to come again as another turn will have ended.
            assert [round(put_off(manners).wait) for _ in range(5)] == [2, 4, 6, 8, 10]

    @pytest.mark.parametrize("lane", Lane)
    def test_no_later_than_is_good_for_its_lane(self, manners: Manners, lane: Lane) -> None:
        with ExitStack() as under_way:
            for _ in range(4):
                under_way.enter_context(manners.turn(URL))
            waits = [put_off(manners, lane=lane).wait for _ in range(2000)]
        assert max(waits) == LONGEST_WAIT[lane]

    def test_bulk_jobs_that_wait_do_not_make_a_live_one_wait_longer(self, manners: Manners) -> None:
        with ExitStack() as under_way:
            for _ in range(4):
                under_way.enter_context(manners.turn(URL))
            for _ in range(1000):
                put_off(manners, lane=Lane.BULK)
            assert put_off(manners).wait < 1


class TestRests:
    @pytest.mark.parametrize("code", ["unreachable", "timeout", "tls_error", "incomplete", "http_500", "http_503"])
    def test_after_twenty_failures_in_a_row(self, manners: Manners, clock: Clock, code: str) -> None:
        fail(manners, MAX_FAILURES - 1, code)
        ask(manners, failing(code))
        # Then it is left alone for the rest of its rest, and others are not.
        clock.now += 10
        error = put_off(manners)
        assert error.code == "host_resting"
        assert FIRST_REST - 10 <= error.wait < FIRST_REST - 9
        ask(manners, url=OTHER)

    @pytest.mark.parametrize("code", ["http_404", "http_429", "not_an_image", "too_large", "empty"])
    def test_what_shows_that_it_is_well_ends_the_row(self, manners: Manners, code: str) -> None:
        fail(manners, MAX_FAILURES - 1)
        ask(manners, PermanentError(code, "An answer."))
        fail(manners, MAX_FAILURES - 1)
        ask(manners)

    @pytest.mark.parametrize("code", ["bad_url", "blocked_address"])
    def test_what_never_asked_it_tells_nothing(self, manners: Manners, code: str) -> None:
        fail(manners, MAX_FAILURES - 1)
        ask(manners, PermanentError(code, "Not asked."))
        fail(manners, 1)
        put_off(manners)

    def test_a_success_ends_the_row(self, manners: Manners) -> None:
        fail(manners, MAX_FAILURES - 1)
        ask(manners)
        fail(manners, MAX_FAILURES - 1)
        ask(manners)

    def test_one_request_goes_first_and_if_it_is_well_all_may_follow(self, manners: Manners, clock: Clock) -> None:
        fail(manners)
        clock.now += FIRST_REST
        with manners.turn(URL):
            put_off(manners)
        with manners.turn(URL), manners.turn(URL):
            pass

    def test_it_rests_longer_each_time_that_the_first_request_fails(self, manners: Manners, clock: Clock) -> None:
        rests = []
        fail(manners)
        for _ in range(6):
            rests.append(manners._hosts["covers.example"].rest)
            clock.now += rests[-1]
            fail(manners, 1)
        assert rests == [30, 60, 120, 240, 300, 300]

    def test_requests_that_began_before_its_rest_do_not_make_it_longer(self, manners: Manners, clock: Clock) -> None:
        under_way = [manners.turn(URL) for _ in range(3)]
        for turn in under_way:
            turn.__enter__()
        fail(manners)
        for turn in under_way:
            turn.__exit__(RetryableError, failing("timeout"), None)
        assert manners._hosts["covers.example"].rest == FIRST_REST

    def test_nobody_goes_first_while_a_request_from_before_its_rest_is_under_way(
        self, manners: Manners, clock: Clock
    ) -> None:
        with manners.turn(URL):
            fail(manners)
            clock.now += FIRST_REST
            put_off(manners)
        ask(manners)

    def test_a_thread_that_is_ended_tells_nothing(self, manners: Manners, clock: Clock) -> None:
        fail(manners)
        clock.now += FIRST_REST
        with pytest.raises(KeyboardInterrupt), manners.turn(URL):
            raise KeyboardInterrupt
        with manners.turn(URL):
            put_off(manners)

    def test_one_that_is_down_for_an_hour_costs_attempts_so_that_every_job_ends(
        self, manners: Manners, clock: Clock
    ) -> None:
        fail(manners)
        until = clock.now + PATIENCE
        while clock.now <= until:
            clock.now += LONGEST_REST
            fail(manners, 1)
        with pytest.raises(RetryableError) as caught:
            ask(manners)
        assert (caught.value.code, caught.value.retry) == ("host_down", Retry.SOURCE)
        assert not isinstance(caught.value, PutOff)
        # It is still asked now and then.
        clock.now += LONGEST_REST
        ask(manners)
        ask(manners)


def test_hosts_that_were_not_asked_for_long_are_forgotten(
    manners: Manners, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "MANY_HOSTS", 100)
    for n in range(1000):
        clock.now += LONGEST_REST / 50
        ask(manners, url=f"https://host-{n}.example/")
    assert len(manners._hosts) <= 100


# With real servers.


class Gauge:
    """Requests that are under way in a server, the most of them at a time, and a gate that they wait at."""

    def __init__(self) -> None:
        self.now = self.most = self.all = 0
        self.open = threading.Event()
        self._lock = threading.Lock()

    def behave(self, server: Stranger, request: Request) -> Iterator[bytes]:
        with self._lock:
            self.now += 1
            self.all += 1
            self.most = max(self.most, self.now)
        assert self.open.wait(30)
        with self._lock:
            self.now -= 1
        yield answer(200, b"picture")


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(count) as pool:
        yield pool


def again_and_again(get: Callable[[], bytes]) -> bytes:
    """What a job does: it comes again, soon."""
    while True:
        try:
            return get()
        except PutOff:
            threading.Event().wait(0.02)


def test_never_more_than_four_of_sixteen_threads_at_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8")
    gauge, manners = Gauge(), Manners(4)
    with stranger(gauge.behave) as slow, stranger(always(answer(200, b"other"))) as quick, threads(16) as pool:
        # Given sixteen threads that all want covers of a slow server
        get = partial(download, slow.url(), manners.turn)
        jobs = [pool.submit(again_and_again, get) for _ in range(15)]
        wait_for(lambda: gauge.now == 4)
        # Then another server is asked at once,
        assert download(quick.url(), manners.turn) == b"other"
        # and when the slow one answers, all get theirs, no more than four at a time.
        gauge.open.set()
        assert [job.result(30) for job in jobs] == [b"picture"] * 15
        assert (gauge.most, gauge.all) == (4, 15)


def test_a_dead_server_is_left_alone_and_a_redirect_to_it_is_not_held_against_who_redirects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8")
    manners = Manners(4)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}/"

        def behave(_: Stranger, request: Request) -> Iterator[bytes]:
            yield answer(200, b"picture") if request.path == "/own.jpg" else answer(302, b"", f"Location: {dead}")

        with stranger(behave) as redirecting:
            # Given a server that redirects to a dead one
            for _ in range(MAX_FAILURES):
                with pytest.raises(RetryableError, match="unreachable"):
                    download(redirecting.url(), manners.turn)
            # Then the dead one is not asked any more, directly or by the redirect,
            for url in (dead, redirecting.url()):
                with pytest.raises(PutOff, match="host_resting"):
                    download(url, manners.turn)
            # and what the other has itself is had from it.
            assert download(redirecting.url("/own.jpg"), manners.turn) == b"picture"
