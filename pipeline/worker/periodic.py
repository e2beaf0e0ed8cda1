"""Actors that run by the clock: what the `periodiq` command asks and sends, made dependable.

What differs from periodiq's own, and why:

- schedules mean what they mean in cron (upstream: Sunday as 0 never comes, and some times are skipped);
- a run is due until it was sent, not only in its minute: one missed by a scheduler that was down is sent at its start,
  once however many were missed (upstream: is never sent);
- SQS that cannot be reached at the hour is tried again until it has the message (upstream: ends the process).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dramatiq

from pipeline.backoff import Backoff
from pipeline.schedule import Schedule
from pipeline.sqs.wire import describe

logger = logging.getLogger(__name__)

#: Seconds until the next attempt to send: doubled from the first to the last.
FIRST_BACKOFF, LAST_BACKOFF = 1.0, 60.0

#: Seconds from now, at the least, that the scheduler is told to sleep: it takes a time that has passed while it sent as
#: one to begin anew at, and does so one call deeper each time.
MIN_SLEEP = 0.5


class Periodic:
    """The `periodic` option of an actor: when it is due.

    Parameters:
        expression: the schedule, in cron's notation.
        last_scheduled: the time of the schedule that was run last, or None where none is known (asked once, at first
            use). Where it is unknown or cannot be asked, only what is due from this very minute on counts.
        clock: the time.
        begins: called once, at first use: nothing but a scheduler uses it.

    Raises:
        ValueError: `expression` is no schedule.
    """

    def __init__(
        self,
        expression: str,
        last_scheduled: Callable[[], datetime | None] = lambda: None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_first_use: Callable[[], None] = lambda: None,
    ) -> None:
        self._schedule = Schedule(expression)
        self._last_scheduled = last_scheduled
        self._clock = clock
        self._on_first_use = on_first_use
        self._sent: datetime | None = None  # the time of the schedule up to which all is sent
        self._due: datetime | None = None
        self.next_check: datetime | None = None  #: when a scheduler asks again, as it was told; None: it never asked
        self.last_sent: datetime | None = None  #: the time of the schedule that this process sent last
        self._backoff = Backoff(FIRST_BACKOFF, LAST_BACKOFF)

    def __str__(self) -> str:
        return str(self._schedule)

    def validate(self, now: datetime) -> bool:
        """Whether a time of the schedule has come, up to `now`, since the last one that was sent."""
        if self._sent is None:
            self._on_first_use()
            self._sent = self._begin(now)
        latest = self._schedule.latest(now)
        self._due = latest if latest > self._sent else None
        return self._due is not None

    def next_valid_date(self, now: datetime) -> datetime:
        """When to ask again: at the next time after `now`, or soon, where one is due that could not be sent."""
        soonest = self._clock() + timedelta(seconds=max(self._backoff.wait, MIN_SLEEP))
        self.next_check = soonest if self._due else max(self._schedule.following(now), soonest)
        return self.next_check

    @property
    def overdue(self) -> float:
        """Seconds since a time of the schedule that is not sent; 0 where none is."""
        return (self._clock() - self._due).total_seconds() if self._due else 0.0

    def sent(self) -> None:
        """What was due is sent."""
        self.last_sent = self._due or self.last_sent
        self._sent, self._due = self._due or self._sent, None
        self._backoff.reset()

    def not_sent(self) -> float:
        """What was due could not be sent; returns the seconds until the next attempt."""
        return self._backoff.next()

    def _begin(self, now: datetime) -> datetime:
        try:
            last = self._last_scheduled()
        except Exception as error:
            logger.warning("The last run by %r is unknown (%s): a missed one is not sent.", str(self), describe(error))
            last = None
        if last is None:
            return now.astimezone(UTC).replace(second=0, microsecond=0) - timedelta(microseconds=1)
        return last if last.tzinfo else last.replace(tzinfo=UTC)  # MongoDB's dates come without


class PeriodicActor(dramatiq.Actor[..., Any]):
    """An actor with a `Periodic`: what the scheduler cannot send is sent later."""

    def send_with_options(self, *, scheduled_at: str | None = None, **options: Any) -> dramatiq.Message[Any]:
        """The scheduler says when, in `scheduled_at`, and is not told of trouble; any other caller is."""
        if scheduled_at is None:
            return super().send_with_options(**options)
        periodic: Periodic = self.options["periodic"]
        message = self.message_with_options(scheduled_at=scheduled_at, **options)
        try:
            self.broker.enqueue(message)
        except Exception as error:  # of boto3, or of a parser below it: the scheduler would end
            logger.warning(
                "%s cannot be sent (%s): next in %g s.", self.actor_name, describe(error), periodic.not_sent()
            )
        else:
            periodic.sent()
        return message
