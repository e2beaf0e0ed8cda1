"""Looks: a message that waits long is received from time to time."""

from __future__ import annotations

import heapq

import pytest

from pipeline.sqs.looks import GRID, MAX_RATE
from pipeline.sqs.wire import MAX_DELAY, decode
from tests.unit.sqs.test_settlement import message


def test_a_message_that_waits_long_is_received_about_once_a_minute(broker) -> None:
    # Given a message that is due in an hour, and not when messages look together
    began, wait = int(broker.clock.time() * 1000), 3617
    entry = broker.sender.entry(message("x"), wait * 1000)
    # Then it knows when it is due and since when it waits.
    assert decode(entry.body).options == {"due": began + wait * 1000, "since": began}
    # When it hops
    delays = [entry.delay]
    while sum(delays) < wait:
        broker.clock.now += delays[-1]
        delays.append(broker.sender.hop(decode(entry.body), entry.body).delay)
    # Then it looks once a minute, and is on time.
    assert all(50 <= delay <= 60 for delay in delays[:-1])
    assert sum(delays) == wait


def test_a_new_wait_begins_when_its_message_is_sent(broker) -> None:
    # Given a message that an earlier wait has left its times in
    old = message("x").copy(options={"due": 1, "since": 1})
    # When it waits again
    options = decode(broker.sender.entry(old, 3_600_000).body).options
    # Then it waits since now.
    now = int(broker.clock.time() * 1000)
    assert options == {"due": now + 3_600_000, "since": now}


@pytest.mark.parametrize(("number", "most"), [(750, 15.0), (12_000, MAX_RATE + 1), (50_000, 50_000 / MAX_DELAY + 1)])
def test_a_crowd_looks_at_a_limited_rate(broker, number: int, most: float) -> None:
    # Given as many messages that wait for a day
    day = 86_400_000
    began, looks, longest = broker.clock.now, 0, 0
    entries = enumerate(broker.sender.entry(message("x"), day) for _ in range(number))
    heapq.heapify(hops := [(began + entry.delay, index, entry) for index, entry in entries])
    # When half an hour goes by
    while hops[0][0] < began + 1800:
        broker.clock.now, index, entry = heapq.heappop(hops)
        entry = broker.sender.hop(decode(entry.body), entry.body)
        heapq.heappush(hops, (broker.clock.now + entry.delay, index, entry))
        looks, longest = looks + 1, max(longest, entry.delay)
    # Then they look no more often in all than that, and each at least as often as SQS can delay it.
    assert looks / 1800 <= most
    assert longest <= min(MAX_DELAY, max(60, number / MAX_RATE + GRID))
