"""The circuit breaker of a host, through the limiter, with a clock that the tests move."""

from __future__ import annotations

from contextlib import suppress

import pytest

from pipeline.errors import NoRequest, PermanentError, PipelineError, Retry, RetryableError, Snoozed
from pipeline.net.circuit import FIRST_OPEN_TIME, HOST_DOWN_AFTER, LONGEST_OPEN_TIME, MAX_FAILED_FOLDERS
from pipeline.net.host_limits import HostLimiter
from tests.support.limiter import MAX_FAILURES, OTHER, URL, ask, fail, failing, snooze
from tests.support.moved_clock import MovedClock

pytestmark = pytest.mark.usefixtures("no_jitter")


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
