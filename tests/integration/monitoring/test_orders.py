"""Orders of an operator, as they are stored: their number and their time."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.clients import mongo
from pipeline.monitoring import orders
from pipeline.monitoring.pauses import PAUSES


def test_an_order_can_be_repeated_although_there_are_as_many_as_are_allowed(job_log: None) -> None:
    first = orders.try_now("host", "0.example")
    stored = {"try": asdict(first), "expires": first.at + orders.KEEP_TRY}
    mongo.job_database()[PAUSES].insert_many([dict(stored) for _ in range(orders.MAX_ORDERS - 1)])
    with pytest.raises(ValueError, match="100 orders"):
        orders.try_now("host", "1.example")
    assert orders.try_now("host", "0.example").at > first.at


def test_an_order_is_made_by_the_clock_of_the_database(job_log: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a filter, and an operator whose clock is a month ahead
    earlier = orders.drop(folder="A")
    orders.keep(earlier)

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=30)

    # When orders are made
    with monkeypatch.context() as ahead:
        ahead.setattr(orders, "datetime", Ahead)
        made = orders.drop(folder="A").before, orders.try_now("host", "cdn.example").at
    # Then they are for the jobs that wait now, and the filter goes on.
    assert max(made) < datetime.now(UTC) + timedelta(minutes=1)
    assert orders.remove(earlier.id)
