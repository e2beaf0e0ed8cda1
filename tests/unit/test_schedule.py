"""Cron schedules: known answers, and daylight-saving changes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle
from zoneinfo import ZoneInfo

import pytest

from pipeline import schedule as schedules
from pipeline.schedule import Schedule


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Set the host's time zone, Berlin by default."""
    monkeypatch.setenv("TZ", getattr(request, "param", "Europe/Berlin"))
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


pytestmark = pytest.mark.usefixtures("zone")


def here() -> ZoneInfo:
    return ZoneInfo(os.environ["TZ"])


def local(text: str) -> datetime:
    """Return a moment by the host's clock; `~` marks the second of two equal hours."""
    return datetime.fromisoformat(text.rstrip("~")).replace(tzinfo=here(), fold=text.endswith("~"))


def following(expression: str, after: str, count: int = 1) -> list[str]:
    schedule, found = Schedule(expression), [local(after)]
    for _ in range(count):
        found.append(schedule.following(found[-1]))
    return [f"{moment.astimezone(here()):%a %Y-%m-%d %H:%M}" for moment in found[1:]]


@pytest.mark.parametrize("sunday", ["0 0 * * 0", "0 0 * * 7", "0 0 * * sun", "0 0 * * SUN", "0 0 * * Sun", "@weekly"])
def test_sunday_in_every_spelling(sunday: str) -> None:
    assert following(sunday, "2026-11-24 02:33", 2) == ["Sun 2026-11-29 00:00", "Sun 2026-12-06 00:00"]


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 1 * * *", "2026-11-24 00:59", ["Tue 2026-11-24 01:00", "Wed 2026-11-25 01:00"]),
        ("0 1 * * *", "2026-11-24 01:00", ["Wed 2026-11-25 01:00"]),
        ("0 1,15 * * 1", "2026-11-24 14:00", ["Mon 2026-11-30 01:00", "Mon 2026-11-30 15:00", "Mon 2026-12-07 01:00"]),
        ("*/20 5 * * *", "2026-11-24 05:10", ["Tue 2026-11-24 05:20", "Tue 2026-11-24 05:40", "Wed 2026-11-25 05:00"]),
        ("10-50/20 * * * *", "2026-11-24 05:30", ["Tue 2026-11-24 05:50", "Tue 2026-11-24 06:10"]),
        ("0 0 31 * *", "2026-11-24 00:00", ["Thu 2026-12-31 00:00", "Sun 2027-01-31 00:00", "Wed 2027-03-31 00:00"]),
        ("0 0 29 2 *", "2026-11-24 00:00", ["Tue 2028-02-29 00:00", "Sun 2032-02-29 00:00"]),
        ("59 23 30 4,jun *", "2026-11-24 00:00", ["Fri 2027-04-30 23:59", "Wed 2027-06-30 23:59"]),
        ("0 12 * * mon-fri", "2026-11-27 12:00", ["Mon 2026-11-30 12:00", "Tue 2026-12-01 12:00"]),
        ("0 12 * * 5-7", "2026-11-24 12:00", ["Fri 2026-11-27 12:00", "Sat 2026-11-28 12:00", "Sun 2026-11-29 12:00"]),
        # If both days are restricted, either is enough; if one begins with a star, both must match.
        ("0 0 13 * fri", "2026-11-08 00:00", ["Fri 2026-11-13 00:00", "Fri 2026-11-20 00:00", "Fri 2026-11-27 00:00"]),
        ("0 0 15 * fri", "2026-11-13 00:00", ["Sun 2026-11-15 00:00", "Fri 2026-11-20 00:00"]),
        ("0 0 */2 * mon", "2026-11-01 00:00", ["Mon 2026-11-09 00:00", "Mon 2026-11-23 00:00"]),
        ("@hourly", "2026-11-24 02:33", ["Tue 2026-11-24 03:00"]),
        ("@daily", "2026-11-24 02:33", ["Wed 2026-11-25 00:00"]),
        ("@midnight", "2026-11-24 02:33", ["Wed 2026-11-25 00:00"]),
        ("@monthly", "2026-11-24 02:33", ["Tue 2026-12-01 00:00"]),
        ("@yearly", "2026-11-24 02:33", ["Fri 2027-01-01 00:00"]),
        ("@Annually", "2026-11-24 02:33", ["Fri 2027-01-01 00:00"]),
        (" 0  1 * * * ", "2026-11-24 00:59", ["Tue 2026-11-24 01:00"]),
    ],
)
def test_the_next_run(expression: str, after: str, expected: list[str]) -> None:
    assert following(expression, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        # On 29 March the clock goes from 2 to 3: a fixed hour that is skipped runs once, right afterwards.
        ("30 2 * * *", "2026-03-28 12:00", ["Sun 2026-03-29 03:00", "Mon 2026-03-30 02:30"]),
        ("15,45 2 * * *", "2026-03-28 12:00", ["Sun 2026-03-29 03:00", "Mon 2026-03-30 02:15"]),
        ("30 * * * *", "2026-03-29 01:00", ["Sun 2026-03-29 01:30", "Sun 2026-03-29 03:30"]),
        # On 25 October it goes from 3 back to 2: a fixed hour runs once, every hour twice.
        ("30 2 * * *", "2026-10-24 12:00", ["Sun 2026-10-25 02:30", "Mon 2026-10-26 02:30"]),
        ("30 2 * * *", "2026-10-25 02:15~", ["Mon 2026-10-26 02:30"]),
        ("30 * * * *", "2026-10-25 02:00", ["Sun 2026-10-25 02:30", "Sun 2026-10-25 02:30", "Sun 2026-10-25 03:30"]),
    ],
)
def test_daylight_saving_changes(expression: str, after: str, expected: list[str]) -> None:
    assert following(expression, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-11-24 01:00", "2026-11-24 01:00"),
        ("2026-11-24 00:59:59.9", "2026-11-23 01:00"),
        ("2026-11-24 23:00", "2026-11-24 01:00"),
    ],
)
def test_the_scheduled_time_of_a_run(at: str, expected: str) -> None:
    found = Schedule("0 1 * * *").latest(local(at))
    assert (found, found.tzinfo) == (local(expected).astimezone(UTC), UTC)


def test_in_the_repeated_hour_the_latest_time_is_on_the_same_day() -> None:
    assert Schedule("30 2 * * *").latest(local("2026-10-25 02:15~")) == local("2026-10-25 02:30").astimezone(UTC)
    assert Schedule("30 2 * * *").latest(local("2026-10-25 02:15")) == local("2026-10-24 02:30").astimezone(UTC)


CHANGES = ["2026-03-28 18:00", "2026-10-24 18:00"]


@pytest.mark.unmeasured
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Beirut", "Antarctica/Troll"], indirect=True)
@pytest.mark.parametrize("expression", ["*/20 * * * *", "0 0 * * *", "30 2 * * *", "0,30 0-3 * * *", "15 */2 * * sun"])
@pytest.mark.parametrize("start", CHANGES)
def test_latest_and_following_agree_at_every_moment(expression: str, start: str) -> None:
    schedule = Schedule(expression)
    moment = local(start).astimezone(UTC)
    times = [schedule.latest(moment)]
    while times[-1] < moment + timedelta(days=1.5):
        times.append(schedule.following(times[-1]))
    for minutes in range(0, 36 * 60, 19):
        at = moment + timedelta(minutes=minutes)
        before = max(each for each in times if each <= at)
        assert schedule.latest(at) == before
        assert schedule.following(at) == times[times.index(before) + 1] > at


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Beirut"], indirect=True)
@pytest.mark.parametrize("start", CHANGES)
def test_intervals_follow_elapsed_time(start: str) -> None:
    schedule, moment = Schedule("*/30 * * * *"), local(start).astimezone(UTC)
    for _ in range(60):
        assert schedule.following(moment) == moment + timedelta(minutes=30)
        moment += timedelta(minutes=30)


def is_shown(moment: datetime, weekday: int, every: int) -> bool:
    return moment.isoweekday() == weekday and moment.hour % every == 0


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("zone", "expression", "weekday", "every"),
    [
        ("Asia/Beirut", "0 */6 * * 0", 7, 6),  # A Sunday without the hour from 0 to 1.
        ("Africa/Cairo", "0 * * * 5", 5, 1),  # A Friday without it.
        ("Africa/Cairo", "0 */6 * * 5", 5, 6),
        ("America/Nuuk", "0 * * * 6", 6, 1),  # A Saturday without the hour from 23 to 24.
        ("Antarctica/Troll", "0 */2 * * sun", 7, 2),  # Two hours skipped, two repeated.
        ("Europe/Berlin", "0 * * * sun", 7, 1),
    ],
    indirect=["zone"],
)
def test_a_whole_year_matches_the_wall_clock(zone: None, expression: str, weekday: int, every: int) -> None:
    # Given every hour of a year, from the time zone database
    hours = [datetime(2025, 12, 31, tzinfo=UTC) + timedelta(hours=n) for n in range(367 * 24)]
    expected = [hour for hour in hours if is_shown(hour.astimezone(here()), weekday, every)]
    # When the schedule is followed through it, forwards and backwards
    schedule = Schedule(expression)
    forwards, backwards = [schedule.following(hours[0])], [schedule.latest(hours[-1])]
    for _ in expected[1:]:
        forwards.append(schedule.following(forwards[-1]))
        backwards.append(schedule.latest(backwards[-1] - timedelta(seconds=1)))
    # Then it ran at each matching hour, and at no other
    assert (forwards, backwards[::-1]) == (expected, expected)


@pytest.mark.parametrize(
    ("zone", "expression", "after", "expected"),
    [
        # A fixed hour that is skipped runs right afterwards, however long the gap is.
        ("Asia/Beirut", "30 0 * * *", "2026-03-28 12:00", ["Sun 2026-03-29 01:00", "Mon 2026-03-30 00:30"]),
        ("America/Nuuk", "30 23 * * 6", "2026-03-28 12:00", ["Sun 2026-03-29 00:00", "Sat 2026-04-04 23:30"]),
        ("Pacific/Apia", "0 1 * * *", "2011-12-29 12:00", ["Sat 2011-12-31 00:00", "Sat 2011-12-31 01:00"]),
    ],
    indirect=["zone"],
)
def test_skipped_times_in_other_zones(zone: None, expression: str, after: str, expected: list[str]) -> None:
    assert following(expression, after, len(expected)) == expected


@pytest.mark.parametrize("answers", [[], [datetime(2026, 11, 24, 1)]])
def test_a_search_ends_even_if_cronsim_makes_no_progress(
    monkeypatch: pytest.MonkeyPatch, answers: list[datetime]
) -> None:
    # Given a schedule, and a cronsim that has no more times, or repeats the same one forever
    schedule = Schedule("0 1 * * *")
    monkeypatch.setattr(schedules, "CronSim", lambda *_, **__: cycle(answers))
    # Then the search ends in an error
    with pytest.raises(ValueError, match="never comes"):
        schedule.following(datetime(2026, 11, 25, tzinfo=UTC))
    with pytest.raises(ValueError, match="never comes"):
        schedule.latest(datetime(2026, 11, 23, tzinfo=UTC))


@pytest.mark.parametrize(
    "expression",
    [
        *("", "foo", "* * * *", "* * * * * *", "@reboot", "@often"),
        *("60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "5-1 * * * *", "*/0 * * * *"),
        *("0 0 31 2 *", "0 0 L * *", "0 0 * * 5L", "0 0 * * 5#2"),
    ],
)
def test_invalid_schedules_are_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Schedule(expression)


def test_a_schedule_is_shown_as_it_was_written() -> None:
    assert str(Schedule("@Weekly")) == "@Weekly"
