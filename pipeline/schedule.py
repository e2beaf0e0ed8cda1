"""When a schedule in cron's notation comes: Debian cron's meaning, in the host's time zone.

Five fields, names and ranges and steps in them, or `@daily` and the like. Where both the day of the month and the day
of the week are restricted, either will do. When clocks are put forward, what a fixed hour skips comes right after; when
they are put back, it comes once. Schedules of every hour or minute go by the time that really passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice

from cronsim import CronSim, CronSimError

#: https://manpages.debian.org/stable/cron/crontab.5.en.html; `@reboot` is no time.
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

#: Longer than any clock is put back (2 h, at Troll): two times by the clock on the wall that are further apart come in
#: their order.
AROUND = timedelta(hours=3)

#: Minutes: no clock skips more than a day (Samoa did, in 2011).
LONGEST_GAP = 24 * 60 + 1

#: Times looked at before giving up: more than come within twice `AROUND`, at one a minute.
LIMIT = 1000


class Schedule:
    """The times of a schedule.

    Raises:
        ValueError: `expression` is none, or names a day that never comes; the text says which field is bad.
    """

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._fields = NICKNAMES.get(expression.strip().lower(), expression)
        fields = self._fields.upper().split()
        if len(fields) != 5:
            raise ValueError("not five fields")
        if "L" in fields[2] or {"L", "#"} & set(fields[4]):  # cronsim's, not cron's
            raise ValueError("Bad day")
        # Where the hour and the minute are fixed, what the clock skips or repeats still comes once.
        self._is_fixed = not fields[0].startswith("*") and not fields[1].startswith("*")
        try:
            self.following(datetime.now(UTC))
        except CronSimError as error:
            raise ValueError(str(error)) from None

    def __str__(self) -> str:
        return self._expression

    def latest(self, at: datetime) -> datetime:
        """The last time at or before `at`, in UTC; raises ValueError where there is none."""
        return self._nearest(at, -1, lambda moment: moment <= at)

    def following(self, after: datetime) -> datetime:
        """The first time after `after`, in UTC; raises ValueError where there is none."""
        return self._nearest(after, 1, lambda moment: moment > after)

    def _nearest(self, moment: datetime, direction: int, is_beyond: Callable[[datetime], bool]) -> datetime:
        # cronsim gets times without a zone: with one, it can go round in circles where the clock skips an hour.
        start = moment.astimezone(HOST_ZONE).replace(tzinfo=None) - direction * AROUND
        found: list[tuple[datetime, datetime]] = []  # in UTC, and by the clock on the wall
        for wall in islice(CronSim(self._fields, start, reverse=direction < 0), LIMIT):
            if found and (wall - found[0][1]) * direction > AROUND:
                break
            found += [(each, wall) for each in self._moments(wall) if is_beyond(each)]
        if not found:
            raise ValueError("it never comes")
        return min(found, key=lambda each: (each[0] - moment) * direction)[0]

    def _moments(self, wall: datetime) -> list[datetime]:
        """When the schedule's time `wall` comes, in UTC: mostly once; where clocks change perhaps never, or twice."""
        if not self._is_fixed:
            return _moments_of(wall)
        for minutes in range(LONGEST_GAP):
            if moments := _moments_of(wall + timedelta(minutes=minutes)):
                return moments[:1]
        return []


class _HostZone(tzinfo):
    """The host's local time as its C library knows it, which is what cron goes by: TZ, or /etc/localtime.

    Of what the library offers, only the way from UTC is used. The other way is PEP 495's: for a time that is skipped or
    repeated, `fold` chooses between the offsets before and after the change. Pythons differ on skipped times in
    `datetime.astimezone()` without a zone (https://github.com/python/cpython/issues/83861).
    """

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        if moment is None:
            return None
        wall = moment.replace(tzinfo=UTC)
        before, after = (_offset(wall + days) for days in (-PROBE, PROBE))
        holds_before, holds_after = (_offset(wall - offset) == offset for offset in (before, after))
        if holds_before == holds_after:
            return after if moment.fold else before
        return before if holds_before else after

    def dst(self, moment: datetime | None) -> None:
        return None

    def tzname(self, moment: datetime | None) -> None:
        return None

    def fromutc(self, moment: datetime) -> datetime:
        offset = _offset(moment.replace(tzinfo=UTC))
        local = (moment + offset).replace(fold=0)
        return local if local.utcoffset() == offset else local.replace(fold=1)


#: From so far before and after a time, the offsets around it are taken: further than any clock is from UTC or is put
#: forward (24 h, when Samoa skipped a day), and nearer than two changes of a clock ever are to each other.
PROBE = timedelta(days=2)


def _offset(moment: datetime) -> timedelta:
    return timedelta(seconds=time.localtime(moment.timestamp()).tm_gmtoff)


HOST_ZONE = _HostZone()


def _moments_of(wall: datetime) -> list[datetime]:
    """The moments, in UTC, at which the host's clock shows `wall`: none where it skips it, two where it repeats it."""
    moments = {wall.replace(tzinfo=HOST_ZONE, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return sorted(each for each in moments if each.astimezone(HOST_ZONE).replace(tzinfo=None) == wall)
