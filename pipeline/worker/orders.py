"""An operator's orders in this process: what fetch drops, and which jobs wait no longer for a retry."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

import dramatiq

from pipeline.attempt import Attempt
from pipeline.errors import Dropped, Rejected
from pipeline.job import Job, Source, UnknownVersion
from pipeline.monitoring.orders import Orders, TryNow
from pipeline.monitoring.retrying import being_retried
from pipeline.net.host_limits import endpoint_of, host_limiter, is_at, receiver_limiter
from pipeline.sqs.wire import CODE, SINCE
from pipeline.stages import FETCH, NOTIFY, stage_of_queue


class Following:
    """The orders as this process read them last."""

    def __init__(self) -> None:
        self._orders = Orders()

    def follow(self, orders: Orders) -> None:
        """Follow these orders from now on. The circuits that it names close before their jobs come."""
        for order in set(orders.tries) - set(self._orders.tries):
            if order.kind != "job":  # its hosts are known once its message comes
                _close_circuits("" if order.kind == "code" else order.value)
                being_retried().hurry(partial(_is_cause, order))
        self._orders = orders

    def is_hurried(self, message: dramatiq.Message[Any]) -> bool:
        """Return whether a message that waits for a retry is to be tried now. Each order hurries it once."""
        since = message.options.get(SINCE, 0) / 1000
        orders = [each for each in self._orders.tries if since < each.at.timestamp()]
        if not orders or not _is_meant(orders, message):
            return False
        # Its next wait begins after the orders, even if the clock of the process that sends it is behind.
        message.options[SINCE] = int(max(each.at for each in orders).timestamp() * 1000) + 1
        return True

    def check(self, attempt: Attempt, source: Source) -> None:
        """Check that no filter matches a source. A job that was redriven since is wanted.

        Raises:
            Dropped: A filter matches it.
        """
        job = attempt.job
        if not self._orders.drops or job.redrives:
            return
        accepted = datetime.fromtimestamp(attempt.arrived, UTC)
        matching = [each for each in self._orders.drops if each.matches(job.folder, source.url, accepted)]
        if matching:
            raise Dropped(silent=all(each.silent for each in matching))


@cache
def following() -> Following:
    """Return the orders that this process follows."""
    return Following()


def _is_cause(order: TryNow, code: str, where: str) -> bool:
    return order.value in {code, where} or (order.kind == "host" and is_at(where, order.value))


def _close_circuits(of: str) -> None:
    """Close the circuits of a host, by its name or a URL, or of all hosts. They would let the jobs wait again."""
    for limiter in (host_limiter(), receiver_limiter()):
        limiter.release(of)


def _is_meant(orders: list[TryNow], message: dramatiq.Message[Any]) -> bool:
    try:
        job = Job.decode(message.kwargs.get("job"))
    except (Rejected, UnknownVersion):
        return False
    urls = _requested(job, message)
    for order in orders:
        match order.kind:
            case "job" if order.value == job.id:
                for url in urls:
                    _close_circuits(url)
                return True
            case "code" if order.value == message.options.get(CODE):
                return True
            case "endpoint" if order.value in map(endpoint_of, urls):
                return True
            case "host" if any(is_at(url, order.value) for url in urls):
                return True
    return False


def _requested(job: Job, message: dramatiq.Message[Any]) -> list[str]:
    """Return the URLs that the next attempt requests. A payload in staging is not read for them."""
    if stage_of_queue(message.queue_name) is not NOTIFY:
        return list(job.urls_due(FETCH))
    return list(filter(None, [job.postback_url]))
