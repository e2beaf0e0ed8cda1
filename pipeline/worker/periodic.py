"""Actors that run on a schedule, and that the `periodiq` command can rely on.

They differ from periodiq's own in these points:

- Schedules mean the same as in cron. Upstream never runs on Sunday written as 0, and skips some times.
- A run stays due until it is sent. If the scheduler was down, it sends one run at its start, however many it missed.
  Upstream sends a run only in its minute.
- If SQS cannot be reached, the run is sent later. Upstream's process ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import dramatiq

from pipeline.schedule import Schedule
from pipeline.sqs.backoff import Backoff
from pipeline.sqs.wire import describe

logger = logging.getLogger(__name__)

#: Seconds until the next attempt to send, doubled from the first to the last.
FIRST_BACKOFF, LAST_BACKOFF = 1.0, 60.0

#: Minimum sleep of the scheduler, in seconds. If the next run is already in the past, periodiq restarts its loop by
#: recursion, one stack frame deeper each time.
MIN_SLEEP = 0.5


class Periodic:
    """The `periodic` option of an actor, which determines when it is due.

    Args:
        expression: The schedule, in cron's notation.
        last_scheduled: Returns the scheduled time of the last run, or None if it is unknown. It is called once, at
            first use. If it returns None or fails, only runs from the current minute on are due.
        clock: Returns the current time.
        on_first_use: Called once, at first use. Only a scheduler uses this object.
        options: More options of the messages: what the worker has to know, whatever its own settings are.

    Attributes:
        next_check: When the scheduler will check again; None before its first check.
        last_sent: The scheduled time of the run that this process sent last.

    Raises:
        ValueError: `expression` is not a schedule.
    """

    def __init__(
        self,
        expression: str,
        last_scheduled: Callable[[], datetime | None] = lambda: None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_first_use: Callable[[], None] = lambda: None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._schedule = Schedule(expression)
        self._last_scheduled = last_scheduled
        self._clock = clock
        self._on_first_use = on_first_use
        self._options = options
        self._sent: datetime | None = None  # runs scheduled up to this time were sent
        self._due: datetime | None = None
        self.next_check: datetime | None = None
        self.last_sent: datetime | None = None
        self._backoff = Backoff(FIRST_BACKOFF, LAST_BACKOFF)

    def __str__(self) -> str:
        return str(self._schedule)

    def options_of(self, scheduled_at: str) -> dict[str, Any]:
        """Return the options of a message: when it was sent, the scheduled time that it is sent for, and the others."""
        scheduled_for = self._schedule.latest(datetime.fromisoformat(scheduled_at))
        return {"scheduled_at": scheduled_at, "scheduled_for": scheduled_for.isoformat(), **self._options}

    def validate(self, now: datetime) -> bool:
        """Return whether a run is due: a scheduled time has passed since the last run that was sent."""
        if self._sent is None:
            self._on_first_use()
            self._sent = self._begin(now)
        latest = self._schedule.latest(now)
        self._due = latest if latest > self._sent else None
        return self._due is not None

    def next_valid_date(self, now: datetime) -> datetime:
        """Return when to check again: at the next scheduled time after `now`, or soon if a due run was not sent."""
        soonest = self._clock() + timedelta(seconds=max(self._backoff.wait, MIN_SLEEP))
        self.next_check = soonest if self._due else max(self._schedule.following(now), soonest)
        return self.next_check

    @property
    def overdue(self) -> float:
        """Seconds since the scheduled time of a run that was not sent; 0 if there is none."""
        return (self._clock() - self._due).total_seconds() if self._due else 0.0

    def sent(self) -> None:
        """Record that the due run was sent."""
        self.last_sent = self._due or self.last_sent
        self._sent, self._due = self._due or self._sent, None
        self._backoff.reset()

    def not_sent(self) -> float:
        """Record that the due run could not be sent; returns the seconds until the next attempt."""
        return self._backoff.next()

    def _begin(self, now: datetime) -> datetime:
        try:
            last = self._last_scheduled()
        except Exception as error:
            logger.warning("The last run by %r is unknown (%s). A missed run is not sent.", str(self), describe(error))
            last = None
        if last is None:
            return now.astimezone(UTC).replace(second=0, microsecond=0) - timedelta(microseconds=1)
        return last if last.tzinfo else last.replace(tzinfo=UTC)  # MongoDB returns dates without a zone


class PeriodicActor(dramatiq.Actor[..., Any]):
    """An actor with a `periodic` option, whose messages are sent later if SQS cannot be reached."""

    takes_message = True

    def send_with_options(self, *, scheduled_at: str | None = None, **options: Any) -> dramatiq.Message[Any]:
        """Send a message. Errors are raised, except to the scheduler, which passes `scheduled_at`."""
        if scheduled_at is None:
            return super().send_with_options(**options)
        periodic: Periodic = self.options["periodic"]
        message = self.message_with_options(**options, **periodic.options_of(scheduled_at))
        try:
            self.broker.enqueue(message)
        except Exception as error:  # from boto3 or a parser below it; it would end the scheduler
            logger.warning(
                "%s cannot be sent (%s). Next attempt in %g s.", self.actor_name, describe(error), periodic.not_sent()
            )
        else:
            periodic.sent()
        return message
