"""When a schedule in cron's notation comes: Debian cron's meaning, in the host's time zone.

Five fields, names and ranges and steps in them, or `@daily` and the like. Where both the day of the month and the day
of the week are restricted, either will do. When clocks are put forward, what a fixed hour skips comes right after; when
they are put back, it comes once. Schedules of every hour or minute go by the time that really passes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo

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

#: Longer than any clock is put back (2 h, at Troll): from so far after a moment the last time before it is looked for.
AROUND = timedelta(hours=3)


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
        try:
            self.following(datetime.now(UTC))
        except (CronSimError, StopIteration) as error:
            raise ValueError(str(error) or "it never comes") from None

    def __str__(self) -> str:
        return self._expression

    def latest(self, at: datetime) -> datetime:
        """The last time at or before `at`, in UTC."""
        return next(time for time in self._times(at + AROUND, reverse=True) if time <= at)

    def following(self, after: datetime) -> datetime:
        """The first time after `after`, in UTC."""
        return next(time for time in self._times(after) if time > after)

    def _times(self, start: datetime, *, reverse: bool = False) -> Iterable[datetime]:
        times = CronSim(self._fields, start.astimezone(HOST_ZONE), reverse=reverse)
        return (time.astimezone(UTC) for time in times)


def scheduled_time(expression: str, at: datetime) -> datetime:
    """The last time of the schedule at or before `at`, in UTC: what a run that began at `at` is the run of."""
    return Schedule(expression).latest(at)


class _HostZone(tzinfo):
    """The host's local time as its C library knows it, which is what cron goes by: TZ, or /etc/localtime."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return _by_the_c_library(moment).utcoffset() if moment else None

    def dst(self, moment: datetime | None) -> None:
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return _by_the_c_library(moment).tzname() if moment else None

    def fromutc(self, moment: datetime) -> datetime:
        there = moment.replace(tzinfo=UTC).astimezone()
        local = there.replace(tzinfo=self, fold=0)
        return local if local.utcoffset() == there.utcoffset() else local.replace(fold=1)


def _by_the_c_library(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None).astimezone()


HOST_ZONE = _HostZone()
