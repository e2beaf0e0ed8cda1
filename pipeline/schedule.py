"""Schedules in cron notation, as Debian's cron interprets them, in the host's time zone.

A schedule has five fields with names, ranges and steps, or is a nickname like `@daily`. If the day of the month and the
day of the week are both restricted, a day that matches either is enough. If the clock skips a fixed time, the job runs
right after the change; if the clock repeats it, the job runs once. Schedules with `*` as hour or minute follow elapsed
time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice

from cronsim import CronSim, CronSimError

#: https://manpages.debian.org/stable/cron/crontab.5.en.html, without `@reboot`.
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

#: Longer than any clock is set back (2 h, at Troll). Wall times that are further apart than this occur in order.
AROUND = timedelta(hours=3)

#: The longest period in minutes that a clock has skipped, plus one: Samoa skipped a day in 2011.
LONGEST_GAP = 24 * 60 + 1

#: Wall times to examine before giving up: more than twice `AROUND` contains at one a minute.
LIMIT = 1000


class Schedule:
    """The times of a schedule.

    Raises:
        ValueError: `expression` is not a schedule, or never occurs. The message names the bad field.
    """

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._fields = NICKNAMES.get(expression.strip().lower(), expression)
        fields = self._fields.upper().split()
        if len(fields) != 5:
            raise ValueError("not five fields")
        if "L" in fields[2] or {"L", "#"} & set(fields[4]):  # cronsim accepts these, cron does not
            raise ValueError("Bad day")
        # A time with a fixed hour and minute occurs once, even if the clock skips or repeats it.
        self._is_fixed = not fields[0].startswith("*") and not fields[1].startswith("*")
        try:
            self.following(datetime.now(UTC))
        except CronSimError as error:
            raise ValueError(str(error)) from None

    def __str__(self) -> str:
        return self._expression

    def latest(self, at: datetime) -> datetime:
        """Return the last time at or before `at`, in UTC.

        Raises:
            ValueError: the schedule has no such time.
        """
        return self._nearest(at, -1, lambda moment: moment <= at)

    def following(self, after: datetime) -> datetime:
        """Return the first time after `after`, in UTC.

        Raises:
            ValueError: the schedule has no such time.
        """
        return self._nearest(after, 1, lambda moment: moment > after)

    def _nearest(self, moment: datetime, direction: int, is_beyond: Callable[[datetime], bool]) -> datetime:
        # cronsim gets times without a zone. With one, it can loop endlessly where the clock skips an hour.
        start = (moment.astimezone(UTC) + _offset(moment)).replace(tzinfo=None) - direction * AROUND
        found: list[tuple[datetime, datetime]] = []  # in UTC, and as wall time
        for wall in islice(CronSim(self._fields, start, reverse=direction < 0), LIMIT):
            if found and (wall - found[0][1]) * direction > AROUND:
                break
            found += [(each, wall) for each in self._moments(wall) if is_beyond(each)]
        if not found:
            raise ValueError("it never comes")
        return min(found, key=lambda each: (each[0] - moment) * direction)[0]

    def _moments(self, wall: datetime) -> list[datetime]:
        """Return the moments, in UTC, of the schedule's time `wall`: none or two if the clock changes, else one."""
        if not self._is_fixed:
            return _moments_of(wall)
        for minutes in range(LONGEST_GAP):
            if moments := _moments_of(wall + timedelta(minutes=minutes)):
                return moments[:1]
        return []


#: The offsets of a time are looked up this long before and after it. This is longer than any offset or skipped period
#: (24 h in Samoa), and shorter than the time between two changes of any clock.
PROBE = timedelta(days=2)


def _offset(moment: datetime) -> timedelta:
    """Return the host's offset by its C library, which cron uses too: TZ, or /etc/localtime."""
    return timedelta(seconds=time.localtime(moment.timestamp()).tm_gmtoff)


def _moments_of(wall: datetime) -> list[datetime]:
    """Return the moments, in UTC, at which the host's clock shows `wall`: none if it skips it, two if it repeats it."""
    shown = wall.replace(tzinfo=UTC)
    offsets = {_offset(shown - PROBE), _offset(shown + PROBE)}
    return sorted(shown - offset for offset in offsets if _offset(shown - offset) == offset)
