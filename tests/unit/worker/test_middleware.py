"""The middleware of a worker: its first message waits for the report of its boot."""

from __future__ import annotations

import multiprocessing
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.worker.middleware import AfterBoot
from tests.support.waiting import wait_for


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The event of a worker process of dramatiq's command, which this process pretends to be."""
    event = multiprocessing.Event()
    worker = SimpleNamespace(_args=("arguments", 0, "pipe", "canteen", event))
    monkeypatch.setattr(multiprocessing, "current_process", lambda: worker)
    return event


def test_messages_wait_until_the_boot_is_reported_and_only_one_thread_asks(report: Any) -> None:
    # Given a worker that has not reported its boot, and two messages that it received
    middleware, begun = AfterBoot(), []

    def begin(number: int) -> None:
        middleware.before_process_message(None, None)
        begun.append(number)

    threads = [threading.Thread(target=begin, args=[number], daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    sleepers = lambda: report._cond._sleeping_count.get_value() - report._cond._woken_count.get_value()  # noqa: E731
    wait_for(lambda: sleepers() == 1, timeout=10)
    assert not begun
    # When it reports it, then both begin
    report.set()
    for thread in threads:
        thread.join(10)
    assert sorted(begun) == [0, 1]
    # and no later message takes the lock that is shared with the main process.
    with report._cond:
        begin(2)


def test_messages_begin_at_once_outside_of_dramatiqs_command() -> None:
    AfterBoot().before_process_message(None, None)
