"""The nightly sweeps of MongoDB: every document with a changed cover becomes a job in the bulk lane.

The nightly re-check does the same for covers that may have been replaced under an unchanged URL.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import dramatiq
from dramatiq.actor import ActorDecorator
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from actors.fetch import fetch_image
from pipeline.errors import Rejected, RetryableError
from pipeline.job import Job, Size
from pipeline.metrics import SWEEP_TAKEN
from pipeline.settings import get_settings
from pipeline.sqs.settlement import SQSMessage
from pipeline.stages import SWEEP_ACTORS
from pipeline.sweeps import recheck, run_state, sweep
from pipeline.sweeps.documents import CHANNELS, EPISODES, RECHECK, SWEPT, Swept
from pipeline.worker.instrumentation import serve_scheduler
from pipeline.worker.periodic import Periodic, PeriodicActor
from pipeline.worker.registry import our_broker

logger = logging.getLogger(__name__)

#: Seconds until a page is retried after an error of MongoDB.
MONGO_RETRY_DELAY = 30.0

#: Most days between two re-checks of a source that a message may name.
MAX_DAYS = 36_500


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Asked:
    """The arguments of a message: a page of a run, or the scheduled run if `run` is None."""

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9:-]{1,64}$")] | None = None
    page: Size = 0

    @classmethod
    def by(cls, message: SQSMessage, swept: Swept) -> Asked:
        """Return the arguments of a message for the sweep `swept`.

        Raises:
            Rejected: They are not those of `send_page` or of the scheduler.
        """
        try:
            asked = cls(*message.original.args, **message.original.kwargs)
        except ValidationError:  # its text contains values
            raise Rejected("bad_message", "The message does not name a page of a run.") from None
        if asked.run is not None and not asked.run.startswith(f"{swept.name}-"):
            raise Rejected("bad_message", "The message names a run of another sweep.")
        return asked


def _nightly(swept: Swept, expression: str | None, **options: Any) -> ActorDecorator:
    """Declare the actor of a sweep, which is not scheduled if `expression` is None.

    The `options` of its messages are the settings of the scheduler that its run depends on.
    """

    def last_run() -> datetime | None:
        return run_state.last_scheduled(swept) if get_settings().database_url else None

    declare = partial(
        dramatiq.actor, broker=our_broker(), actor_class=PeriodicActor, queue_name=SWEEP_ACTORS[swept.actor]
    )
    if expression is None:
        return declare()
    return declare(periodic=Periodic(expression, last_run, on_first_use=serve_scheduler, options=options))


@_nightly(CHANNELS, get_settings().sweep_channels_cron)
def sweep_channels(message: SQSMessage) -> None:
    """Take one page of a run over the channels, or begin the scheduled run: see `Asked`."""
    _sweep(CHANNELS, message)


@_nightly(EPISODES, get_settings().sweep_episodes_cron)
def sweep_episodes(message: SQSMessage) -> None:
    """Take one page of a run over the episodes, or begin the scheduled run: see `Asked`."""
    _sweep(EPISODES, message)


@_nightly(
    RECHECK,
    get_settings().recheck_cron if get_settings().recheck_days else None,
    recheck_days=get_settings().recheck_days,
)
def sweep_recheck(message: SQSMessage) -> None:
    """Take one page of a re-check, or begin the scheduled run: see `Asked`."""
    _sweep(RECHECK, message)


def send_page(swept: Swept, run: str, page: int = 0, *, wait: float = 0.0) -> None:
    """Send the message for a page of a run, to be received after `wait` seconds."""
    actor = our_broker().get_actor(swept.actor)
    our_broker().enqueue(actor.message(run=run, page=page), delay=int(wait * 1000))


def _sweep(swept: Swept, message: SQSMessage) -> None:
    asked = Asked.by(message, swept)
    SWEEP_TAKEN.labels(swept.actor).set_to_current_time()
    if get_settings().database_url is None:
        logger.info("No MongoDB variable is set. The %s are not swept.", swept.name)
        return
    try:
        if asked.run is None:
            run, next_page = _begin(swept, message)
        else:
            take_page = recheck.take_page if swept is RECHECK else partial(sweep.take_page, swept)
            run = asked.run
            next_page = take_page(run, asked.page, by=message.message_id, hand_over=_hand_over)
    except RetryableError as error:
        if error.code != "mongo_error":
            raise
        logger.warning("The sweep of %s is retried in %g s: %s", swept.name, MONGO_RETRY_DELAY, error)
        our_broker().enqueue(message.original, delay=int(MONGO_RETRY_DELAY * 1000))
        return
    if next_page:
        send_page(swept, run, next_page.page, wait=next_page.wait)


def _begin(swept: Swept, message: SQSMessage) -> tuple[str, sweep.NextPage | None]:
    """Begin the run that the message asks for, unless another message has begun it."""
    at = _asked_for(message)
    run_id = run_state.scheduled_id(swept, at)
    if swept is RECHECK:
        days = message.options.get("recheck_days")
        if days is not None and not (type(days) is int and 0 <= days <= MAX_DAYS):
            raise Rejected("bad_message", "The message names an unusable number of days.")
        run = recheck.begin(run_id, list(SWEPT), by=message.message_id, scheduled_for=at, days=days)
    else:
        run = run_state.begin(swept, run_id, by=message.message_id, scheduled_for=at)
    if run.advanced_by != message.message_id:
        logger.info("The run %s has begun already.", run_id)
        return run_id, None
    return run_id, sweep.NextPage(0)


def _asked_for(message: SQSMessage) -> datetime:
    """Return the scheduled time that the message was sent for, or the message's own time if it was not scheduled.

    The message contains it, because this process may have another schedule than the scheduler, or none. The scheduler
    of an earlier release wrote only when it sent the message.

    Raises:
        Rejected: The scheduled time is not a time.
    """
    text = message.options.get("scheduled_for", message.options.get("scheduled_at"))
    if text is None:
        return datetime.fromtimestamp(message.message_timestamp / 1000, UTC)
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise Rejected("bad_message", "The message was scheduled at an unreadable time.") from None


def _hand_over(jobs: Sequence[Job]) -> Sequence[Exception | None]:
    return our_broker().enqueue_many([fetch_image.message_of(job) for job in jobs])
