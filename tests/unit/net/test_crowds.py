"""Crowds of jobs at one host, by a simulated fleet on a virtual clock."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import islice

import pytest

from pipeline.net.bulkhead import JITTER, LONGEST_SNOOZE, MAX_LINES, Crowd
from pipeline.stages import Lane
from tests.support.crowd import PER_HOST, Fleet, other_folders, rate
from tests.support.limiter import URL, snooze
from tests.support.moved_clock import MovedClock

pytestmark = pytest.mark.unmeasured

CROWD, HOUR = "CROWD", 3600


def test_a_small_crowd_keeps_the_slots_busy(clock: MovedClock) -> None:
    # Given as many jobs as two processes can do in two minutes
    fleet = Fleet(processes=2, seconds=1.0, clock=clock)
    jobs = fleet.send([CROWD] * 1000)
    fleet.run()
    # Then all end, and the slots were idle for less than half of the time.
    assert sorted(fleet.ended) == jobs
    assert fleet.now < 2 * len(jobs) / fleet.served


def test_the_jobs_of_a_flood_return_once_in_an_hour_and_other_folders_take_turns_with_it(clock: MovedClock) -> None:
    # Given more jobs at once than a process can do in an hour
    fleet = Fleet(processes=1, seconds=2.0, clock=clock)
    jobs = fleet.send([CROWD] * 10_000)
    # When jobs of other folders arrive during the flood, then they end soon,
    fleet.run(until=HOUR)
    others = fleet.send(list(islice(other_folders(CROWD), 5)))
    fleet.run(until=HOUR + 120)
    assert max(fleet.ended[job] for job in others) - HOUR < 60
    # the flood sends little while it waits: a few jobs a second find no slot although it is their time,
    fleet.run(until=2 * HOUR)
    assert rate(fleet.snoozes, HOUR, 2 * HOUR) < len(jobs) / LONGEST_SNOOZE + fleet.served / 2
    # and all jobs end.
    fleet.run()
    assert len(fleet.ended) == len(jobs) + len(others)
    # When the host is busy again later, then a job waits for the requests in progress alone.
    (limiter,) = fleet.limiters
    with ExitStack() as under_way:
        for _ in range(PER_HOST):
            under_way.enter_context(limiter.slot(URL))
        assert snooze(limiter, folder=CROWD).wait < 1


class TestLines:
    def test_the_lines_of_folders_take_turns(self) -> None:
        crowd, other = Crowd(), next(other_folders(CROWD))
        # Given a folder whose jobs wait for ten minutes, at one a second
        for _ in range(600):
            crowd.snooze(Lane.LIVE, 1.0, now=0.0, folder=CROWD)
        # Then the first job of another folder waits for one turn of each,
        assert 2 * JITTER[0] <= crowd.snooze(Lane.LIVE, 1.0, now=0.0, folder=other) <= 2 * JITTER[1]
        # and the first folder has every second turn from now on.
        assert crowd.snooze(Lane.LIVE, 1.0, now=0.0, folder=CROWD) >= 602 * JITTER[0]
        assert crowd.booked_until[Lane.LIVE, hash(CROWD) % MAX_LINES] == 602

    def test_the_lines_of_the_other_lane_do_not_count(self) -> None:
        crowd, other = Crowd(), next(other_folders(CROWD))
        crowd.snooze(Lane.BULK, 1.0, now=0.0, folder=other)
        assert crowd.snooze(Lane.LIVE, 1.0, now=0.0, folder=CROWD) <= JITTER[1]

    def test_a_line_whose_jobs_have_returned_is_forgotten(self) -> None:
        crowd, other = Crowd(), next(other_folders(CROWD))
        crowd.snooze(Lane.LIVE, 1.0, now=0.0, folder=other)
        crowd.snooze(Lane.LIVE, 1.0, now=10.0, folder=CROWD)
        assert list(crowd.booked_until.values()) == [11.0]
