"""Bulkhead for hosts that may be slow, and the circuits of receivers, with a clock that the tests move."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest

from pipeline.errors import PipelineError, Retry, RetryableError, Snoozed
from pipeline.net import host_limits as hosts
from pipeline.net.bulkhead import Bulkhead, Speed
from pipeline.net.circuit import FIRST_OPEN_TIME, HOST_DOWN_AFTER, LONGEST_OPEN_TIME
from pipeline.net.host_limits import QUICK_SECONDS, HostLimiter, Policy, RestingHost, receivers
from pipeline.stages import Lane
from tests.support.limiter import NUMBERS, OTHER, URL, ask, failing, snooze
from tests.support.moved_clock import MovedClock

pytestmark = pytest.mark.usefixtures("no_jitter")


class TestBulkhead:
    @pytest.fixture
    def bulkhead(self) -> Bulkhead:
        return Bulkhead(threads=16)

    @pytest.fixture
    def host_limiter(self, clock: MovedClock, bulkhead: Bulkhead) -> HostLimiter:
        return HostLimiter(Policy(4), clock, bulkhead)

    def hang(self, host_limiter: HostLimiter, under_way: ExitStack, count: int, folder: str = "FOLDER") -> int:
        """Begin requests to `count` hosts of their own; returns how many were not snoozed."""
        begun = 0
        for _ in range(count):
            with suppress(Snoozed):
                under_way.enter_context(host_limiter.slot(f"https://host-{next(NUMBERS)}.example/", folder=folder))
                begun += 1
        return begun

    def test_unknown_hosts_hold_at_most_half_of_the_threads(self, host_limiter: HostLimiter) -> None:
        # Given a host that is known to be quick, and 96 new ones that hang, of three folders
        ask(host_limiter)
        with ExitStack() as under_way:
            begun = [self.hang(host_limiter, under_way, 32, f"FOLDER-{n}") for n in range(3)]
            # Then each folder holds at most half of the slots, the next one is snoozed,
            assert begun == [4, 4, 0]
            assert snooze(host_limiter, OTHER, folder="NEW").code == "too_many_slow"
            # and the quick host is asked at once.
            ask(host_limiter)

    def test_a_folder_with_dead_hosts_leaves_places_to_others(self, host_limiter: HostLimiter) -> None:
        with ExitStack() as under_way:
            self.hang(host_limiter, under_way, 96)
            ask(host_limiter, url=OTHER, folder="OTHER")

    @pytest.mark.parametrize("error", [None, RetryableError("timeout", "It hung.")])
    def test_slow_hosts_hold_at_most_a_quarter(
        self, host_limiter: HostLimiter, clock: MovedClock, bulkhead: Bulkhead, error: PipelineError | None
    ) -> None:
        # Given a host that was slow at its last request
        with suppress(RetryableError), host_limiter.slot(URL):
            clock.now += QUICK_SECONDS + 1
            if error:
                raise error
        with ExitStack() as under_way:
            for n in range(2):
                under_way.enter_context(host_limiter.slot(URL, folder=f"FOLDER-{n}"))
            assert bulkhead.taken(Speed.SLOW) == 2
            for n in range(2):
                under_way.enter_context(host_limiter.slot(OTHER, folder=f"FOLDER-{n}", patient=True))
            # Then it shares four slots with all patient requests,
            assert snooze(host_limiter, folder="THIRD").code == "too_many_slow"
        # and one quick answer makes it quick again.
        ask(host_limiter)
        assert bulkhead.taken(Speed.SLOW) == 0
        with host_limiter.slot(URL):
            assert bulkhead.taken(Speed.QUICK) == 1

    def test_a_quarter_of_the_threads_is_always_left_for_other_work(
        self, host_limiter: HostLimiter, bulkhead: Bulkhead
    ) -> None:
        # Given far more requests that hang than there are threads, to new hosts and to slow ones, of many folders
        with ExitStack() as under_way:
            for n in range(100):
                for patient in (False, True):
                    with suppress(Snoozed):
                        slot = host_limiter.slot(f"https://{n}.example/", folder=f"FOLDER-{n}", patient=patient)
                        under_way.enter_context(slot)
            # Then they hold three quarters. Write-backs to MongoDB and redirects need no slot, so they find a thread.
            assert sum(bulkhead.taken(speed) for speed in Speed) == 12

    def test_bulk_jobs_leave_half_of_the_places_to_live_ones(self, host_limiter: HostLimiter) -> None:
        with ExitStack() as under_way:
            for n in range(4):
                under_way.enter_context(host_limiter.slot(f"https://{n}.example/", Lane.BULK, f"FOLDER-{n}"))
            assert snooze(host_limiter, OTHER, Lane.BULK).code == "too_many_slow"
            ask(host_limiter, url=OTHER)

    def test_the_crowd_returns_as_places_become_free(self, host_limiter: HostLimiter) -> None:
        with ExitStack() as under_way:
            self.hang(host_limiter, under_way, 4)
            waits = [snooze(host_limiter, OTHER).wait for _ in range(80)]
        assert waits == sorted(waits)
        assert waits[-1] == pytest.approx(80 / 8)

    def test_a_process_with_one_thread_asks_any_host(self, clock: MovedClock) -> None:
        host_limiter = HostLimiter(Policy(4), clock, Bulkhead(threads=1))
        with host_limiter.slot(URL, Lane.BULK):
            pass
        with host_limiter.slot(URL, patient=True):
            pass


class TestReceivers:
    @pytest.fixture
    def host_limiter(self, clock: MovedClock) -> HostLimiter:
        return HostLimiter(receivers(4), clock)

    @pytest.mark.parametrize("code", ["timeout", "unreachable", "incomplete", "http_500", "http_503", "http_429"])
    def test_ten_failures_in_a_row_open_a_circuit(self, host_limiter: HostLimiter, code: str) -> None:
        for _ in range(10):
            assert not host_limiter.open_circuits
            ask(host_limiter, RetryableError(code, "A failure.", retry=Retry.POSTBACK))
        assert snooze(host_limiter).code == "host_resting"

    @pytest.mark.parametrize("code", ["http_400", "http_401", "http_404"])
    def test_an_answer_that_refuses_shows_that_it_works(self, host_limiter: HostLimiter, code: str) -> None:
        for _ in range(50):
            ask(host_limiter, RetryableError(code, "A refusal.", retry=Retry.POSTBACK))
        assert not host_limiter.open_circuits

    def test_a_receiver_that_fails_for_ten_folders_rests_for_all_of_them(
        self, host_limiter: HostLimiter, clock: MovedClock
    ) -> None:
        # Given a receiver that failed once for each of ten folders, whose deliveries differ in their queries
        for n in range(10):
            ask(host_limiter, failing("timeout"), f"{URL}?job={n}", folder=f"FOLDER-{n}")
        # Then it rests for another folder too, and is probed by a single request.
        assert snooze(host_limiter, f"{URL}?job=11", folder="OTHER").code == "host_resting"
        clock.now += FIRST_OPEN_TIME
        with host_limiter.slot(URL, folder="OTHER"):
            snooze(host_limiter, folder="THIRD")
        ask(host_limiter, folder="THIRD")

    def test_the_failing_path_of_one_folder_delays_no_other_path_of_its_host(
        self, host_limiter: HostLimiter, clock: MovedClock
    ) -> None:
        # Given a shared host with a path for each folder, one of which always fails
        broken, works = "https://covers.example/broken/hook", "https://covers.example/works/hook"
        for _ in range(10):
            ask(host_limiter, failing("timeout"), broken)
        # Then its deliveries wait, and those of others do not, even while others keep the host busy.
        snooze(host_limiter, broken)
        with host_limiter.slot(works):
            ask(host_limiter, url=works)
            clock.now += FIRST_OPEN_TIME
            with host_limiter.slot(broken):
                snooze(host_limiter, broken)

    def test_paths_without_failures_take_no_memory(self, host_limiter: HostLimiter) -> None:
        for n in range(100):
            ask(host_limiter, url=f"https://covers.example/{n}")
        ask(host_limiter, failing("timeout"), f"https://covers.example/{'x' * 8000}")
        (key,) = host_limiter._hosts["https://covers.example"].circuits
        assert len(key) < 300

    def test_long_paths_that_begin_alike_have_circuits_of_their_own(self, host_limiter: HostLimiter) -> None:
        for _ in range(10):
            ask(host_limiter, failing("timeout"), f"https://covers.example/{'x' * 1000}/broken")
        ask(host_limiter, url=f"https://covers.example/{'x' * 1000}/works")

    def test_many_broken_paths_share_a_circuit(
        self, host_limiter: HostLimiter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hosts, "MAX_CIRCUITS", 3)
        for n in range(13):
            ask(host_limiter, failing("timeout"), f"https://covers.example/{n}")
        assert len(host_limiter._hosts["https://covers.example"].circuits) == 4
        assert snooze(host_limiter, "https://covers.example/12").code == "host_resting"

    @pytest.mark.unmeasured
    def test_a_receiver_that_hangs_for_three_days_holds_one_thread_now_and_then(
        self, host_limiter: HostLimiter, clock: MovedClock
    ) -> None:
        # Given a receiver that never answers, and a delivery every five seconds
        held, end = 0.0, clock.now + 3 * 86_400
        while clock.now < end:
            try:
                with host_limiter.slot(URL):
                    clock.now += 15
                    held += 15
                    raise RetryableError("timeout", "It hung.", retry=Retry.POSTBACK)
            except RetryableError:
                clock.now += 5
        # Then it holds a thread for 5 % of the time.
        assert held / (3 * 86_400) < 0.06

    def test_deliveries_to_a_receiver_that_is_down_for_an_hour_count_attempts(
        self, host_limiter: HostLimiter, clock: MovedClock
    ) -> None:
        until = clock.now + HOST_DOWN_AFTER + 2 * LONGEST_OPEN_TIME
        while clock.now <= until:
            with suppress(Snoozed, RetryableError):
                ask(host_limiter, failing("timeout"))
            clock.now += 1
        with pytest.raises(RetryableError) as caught:
            ask(host_limiter)
        assert (caught.value.code, caught.value.retry) == ("host_down", Retry.POSTBACK)


def test_resting_hosts_are_listed_with_the_jobs_that_wait_for_them(clock: MovedClock) -> None:
    host_limiter = HostLimiter(receivers(4), clock)
    # Given two endpoints at one host that fail, one of them for longer
    first, second = "https://covers.example/first", "https://covers.example/second"
    for _ in range(10):
        ask(host_limiter, failing("timeout"), first)
    clock.now += 20
    for _ in range(10):
        ask(host_limiter, failing("timeout"), second)
    waits = [snooze(host_limiter, first).wait for _ in range(5)]
    # Then both are listed, the longest first.
    assert host_limiter.resting() == [RestingHost(first, 20, 5), RestingHost(second, 0, 0)]
    # When the jobs have returned, then the limiter stops counting them.
    clock.now += max(waits)
    assert [host.waiting for host in host_limiter.resting()] == [0, 0]
    ask(host_limiter, url=first)
    assert [host.name for host in host_limiter.resting()] == [second]
