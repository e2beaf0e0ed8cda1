"""Group commit: which entries share a batch, and which caller gets which error."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from pipeline.sqs.group_commit import GroupCommit
from tests.support.waiting import wait_for


class Sender:
    """Records the batches it commits, and holds each until it is released."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)

    def __call__(self, batch: list[str]) -> list[Exception | None]:
        self.batches.append(batch)
        self.begun.release()
        assert self.let.acquire(timeout=10)
        return [ValueError(entry) if entry.startswith("bad") else None for entry in batch]


def test_the_first_goes_at_once_and_later_ones_share_the_next_batch() -> None:
    # Given a batch of one under way
    sender = Sender()
    group = GroupCommit(sender, max_entries=10, max_bytes=1000)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(group.submit, [("a", 1)])
        assert sender.begun.acquire(timeout=10)
        # When three more are submitted by other threads
        others = [pool.submit(group.submit, [(entry, 1)]) for entry in "bcd"]
        wait_for(lambda: len(group._waiting) == 3)
        sender.let.release(2)
        # Then they share one batch after the first.
        assert [outcome.result(10) for outcome in (first, *others)] == [[None]] * 4
    assert sender.batches[0] == ["a"]
    assert [sorted(batch) for batch in sender.batches[1:]] == [["b", "c", "d"]]


def test_a_failed_entry_fails_only_its_own_caller() -> None:
    sender = Sender()
    sender.let.release(10)
    group = GroupCommit(sender, max_entries=10, max_bytes=1000)
    with ThreadPoolExecutor(4) as pool:
        outcomes = {entry: pool.submit(group.submit, [(entry, 1)]) for entry in ("good", "bad1", "bad2")}
        assert outcomes["good"].result(10) == [None]
        assert [str(error) for error in outcomes["bad1"].result(10)] == ["bad1"]
        assert [str(error) for error in outcomes["bad2"].result(10)] == ["bad2"]


def test_batches_respect_the_number_of_entries_and_of_bytes() -> None:
    sender = Sender()
    sender.let.release(100)
    group = GroupCommit(sender, max_entries=3, max_bytes=10)
    assert group.submit([("a", 4), ("b", 4), ("c", 4), ("d", 1), ("e", 1), ("f", 1), ("g", 99), ("h", 1)]) == [None] * 8
    assert sender.batches == [["a", "b"], ["c", "d", "e"], ["f"], ["g"], ["h"]]


def test_an_error_of_the_commit_reaches_every_caller_and_the_next_batch_goes_on() -> None:
    failures = [OSError("down"), None]

    def commit(batch: list[str]) -> list[Exception | None]:
        if failure := failures.pop(0):
            raise failure
        return [None] * len(batch)

    group = GroupCommit(commit, max_entries=2, max_bytes=10)
    assert [str(error) for error in group.submit([("a", 1), ("b", 1)])] == ["down", "down"]
    assert group.submit([("c", 1)]) == [None]


def test_other_callers_go_on_when_the_sender_is_interrupted() -> None:
    # Given a sender that a time limit interrupts, with another thread waiting behind it
    class TimeLimit(BaseException): ...

    begun, go_on = threading.Event(), threading.Event()
    batches: list[list[str]] = []

    def commit(batch: list[str]) -> list[Exception | None]:
        batches.append(batch)
        if batch == ["first"]:
            begun.set()
            assert go_on.wait(10)
            raise TimeLimit
        return [None] * len(batch)

    group = GroupCommit(commit, max_entries=10, max_bytes=10)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(group.submit, [("first", 1)])
        assert begun.wait(10)
        second = pool.submit(group.submit, [("second", 1)])
        wait_for(lambda: len(group._waiting) == 1)
        go_on.set()
        # Then only the sender fails, and the other's entry is sent.
        assert isinstance(first.exception(10), TimeLimit)
        assert second.result(10) == [None]
    assert batches == [["first"], ["second"]]


def test_nothing_to_submit_sends_nothing() -> None:
    sender = Sender()
    assert GroupCommit(sender, max_entries=2, max_bytes=10).submit([]) == []
    assert sender.batches == []


def test_a_batch_waits_for_expected_entries() -> None:
    # Given three threads at work
    sender = Sender()
    sender.let.release(10)
    group = GroupCommit(sender, max_entries=10, max_bytes=1000, expected=lambda: 3, window=10)
    with ThreadPoolExecutor(3) as pool:
        # When one after the other has an entry to send
        outcomes = [pool.submit(group.submit, [(entry, 1)]) for entry in "abc"]
        # Then all go in one batch, as soon as the last one has come.
        assert [outcome.result(5) for outcome in outcomes] == [[None]] * 3
    assert [sorted(batch) for batch in sender.batches] == [["a", "b", "c"]]


def test_a_lone_entry_and_a_full_batch_never_wait() -> None:
    sender = Sender()
    sender.let.release(10)
    at_work = ["only me"]
    group = GroupCommit(sender, max_entries=2, max_bytes=1000, expected=lambda: len(at_work), window=60)
    assert group.submit([("a", 1)]) == [None]
    at_work += ["another", "a third"]
    assert group.submit([("b", 1), ("c", 1)]) == [None] * 2
    assert sender.batches == [["a"], ["b", "c"]]


def test_a_batch_goes_eventually_if_expected_entries_do_not_come() -> None:
    sender = Sender()
    sender.let.release(10)
    group = GroupCommit(sender, max_entries=10, max_bytes=1000, expected=lambda: 5, window=0.05)
    assert group.submit([("a", 1)]) == [None]
    assert sender.batches == [["a"]]
