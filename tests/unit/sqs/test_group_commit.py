"""Group commit: which entries share a batch, and which caller gets which error."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from dramatiq.threading import raise_thread_exception

from pipeline.sqs import sender as sender_module
from pipeline.sqs.sender import GroupCommit
from pipeline.sqs.wire import MAX_BATCH, SendEntry
from tests.support.waiting import wait_for


def entries(*bodies: str) -> list[SendEntry]:
    return [SendEntry(body) for body in bodies]


def bodies(batch: list[SendEntry]) -> list[str]:
    return [entry.body for entry in batch]


class Sender:
    """Records the batches it commits, and holds each until it is released."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)

    def __call__(self, batch: list[SendEntry]) -> list[Exception | None]:
        self.batches.append(bodies(batch))
        self.begun.release()
        assert self.let.acquire(timeout=10)
        return [ValueError(body) if body.startswith("bad") else None for body in bodies(batch)]


def test_a_few_batches_are_sent_at_a_time() -> None:
    # Given a batch under way, and no backlog
    sender = Sender()
    group = GroupCommit(sender, most=2)
    with ThreadPoolExecutor(3) as pool:
        outcomes = [pool.submit(group.submit, entries("a"))]
        assert sender.begun.acquire(timeout=10)
        # When another thread submits, then its batch does not wait for the first one,
        outcomes.append(pool.submit(group.submit, entries("b")))
        assert sender.begun.acquire(timeout=10)
        # but a third waits for one of them.
        outcomes.append(pool.submit(group.submit, entries("c")))
        wait_for(lambda: len(group._waiting) == 1)
        assert sender.batches == [["a"], ["b"]]
        sender.let.release(3)
        assert [outcome.result(10) for outcome in outcomes] == [[None]] * 3
    assert sender.batches == [["a"], ["b"], ["c"]]


def test_four_batches_are_sent_at_a_time_unless_it_is_told_otherwise() -> None:
    # Given four batches under way
    sender = Sender()
    group = GroupCommit(sender)
    with ThreadPoolExecutor(5) as pool:
        for body in "abcd":
            pool.submit(group.submit, entries(body))
            assert sender.begun.acquire(timeout=10)
        # When a fifth thread submits, then it waits for one of them.
        fifth = pool.submit(group.submit, entries("e"))
        wait_for(lambda: len(group._waiting) == 1)
        assert len(sender.batches) == 4
        sender.let.release(5)
        assert fifth.result(10) == [None]


def test_the_first_goes_at_once_and_later_ones_share_the_next_batch() -> None:
    # Given a batch of one under way
    sender = Sender()
    group = GroupCommit(sender, most=1)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(group.submit, entries("a"))
        assert sender.begun.acquire(timeout=10)
        # When three more are submitted by other threads
        others = [pool.submit(group.submit, entries(body)) for body in "bcd"]
        wait_for(lambda: len(group._waiting) == 3)
        sender.let.release(2)
        # Then they share one batch after the first.
        assert [outcome.result(10) for outcome in (first, *others)] == [[None]] * 4
    assert sender.batches[0] == ["a"]
    assert [sorted(batch) for batch in sender.batches[1:]] == [["b", "c", "d"]]


def test_a_failed_entry_fails_only_its_own_caller() -> None:
    sender = Sender()
    sender.let.release(10)
    group = GroupCommit(sender)
    with ThreadPoolExecutor(4) as pool:
        outcomes = {body: pool.submit(group.submit, entries(body)) for body in ("good", "bad1", "bad2")}
        assert outcomes["good"].result(10) == [None]
        assert [str(error) for error in outcomes["bad1"].result(10)] == ["bad1"]
        assert [str(error) for error in outcomes["bad2"].result(10)] == ["bad2"]


def test_other_callers_go_on_when_the_sender_is_interrupted() -> None:
    # Given a sender that a time limit interrupts, with another thread waiting behind it
    class TimeLimit(BaseException): ...

    begun, go_on = threading.Event(), threading.Event()
    batches: list[list[str]] = []

    def commit(batch: list[SendEntry]) -> list[Exception | None]:
        batches.append(bodies(batch))
        if batches == [["first"]]:
            begun.set()
            assert go_on.wait(10)
            raise TimeLimit
        return [None] * len(batch)

    group = GroupCommit(commit, most=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(group.submit, entries("first"))
        assert begun.wait(10)
        second = pool.submit(group.submit, entries("second"))
        wait_for(lambda: len(group._waiting) == 1)
        go_on.set()
        # Then only the sender fails, and the other's entry is sent.
        assert isinstance(first.exception(10), TimeLimit)
        assert second.result(10) == [None]
    assert batches == [["first"], ["second"]]


def test_a_batch_waits_for_expected_entries() -> None:
    # Given three threads at work
    sender = Sender()
    sender.let.release(10)
    group = GroupCommit(sender, expected=lambda: 3, window=10)
    with ThreadPoolExecutor(3) as pool:
        # When one after the other has an entry to send
        outcomes = [pool.submit(group.submit, entries(body)) for body in "abc"]
        # Then all go in one batch, as soon as the last one has come.
        assert [outcome.result(5) for outcome in outcomes] == [[None]] * 3
    assert [sorted(batch) for batch in sender.batches] == [["a", "b", "c"]]


def test_an_entry_that_another_thread_has_taken_is_not_sent_twice() -> None:
    # Given a thread that waits for the entries of two others
    sender, at_work = Sender(), [3]
    sender.let.release(10)
    group = GroupCommit(sender, expected=lambda: at_work[0], window=10)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(group.submit, entries("a"))
        wait_for(lambda: group._under_way)
        # When the backlog ends, and another thread sends all that waits
        at_work[0] = 0
        assert group.submit(entries("b")) == [None]
        # Then the first has nothing left to send.
        assert first.result(10) == [None]
    assert sender.batches == [["a", "b"]]


def test_a_lone_entry_and_a_full_batch_never_wait() -> None:
    sender = Sender()
    sender.let.release(10)
    at_work = ["only me"]
    group = GroupCommit(sender, expected=lambda: len(at_work), window=60)
    assert group.submit(entries("a")) == [None]
    at_work += ["another"] * MAX_BATCH
    assert group.submit(entries(*"0123456789")) == [None] * MAX_BATCH
    assert sender.batches == [["a"], list("0123456789")]


def test_a_batch_goes_eventually_if_expected_entries_do_not_come() -> None:
    sender = Sender()
    sender.let.release(10)
    group = GroupCommit(sender, expected=lambda: 5, window=0.05)
    assert group.submit(entries("a")) == [None]
    assert sender.batches == [["a"]]


def test_an_interruption_just_before_a_batch_is_sent_leaves_the_lock_in_order() -> None:
    class TimeLimit(BaseException): ...

    sender = Sender()
    sender.let.release(10)
    group = GroupCommit(sender)
    release = group._arrived.release

    def interrupted() -> None:
        release()
        group._arrived.release = release  # type: ignore[method-assign]
        raise TimeLimit

    group._arrived.release = interrupted  # type: ignore[method-assign]
    with pytest.raises(TimeLimit):
        group.submit(entries("a"))
    assert group.submit(entries("b")) == [None]
    assert sender.batches == [["b"]]


def test_the_next_sender_may_be_interrupted_while_it_waits() -> None:
    # Given a batch under way, and two threads that wait for their turn
    class TimeLimit(BaseException): ...

    sender = Sender()
    group = GroupCommit(sender, most=1)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(group.submit, entries("first"))
        assert sender.begun.acquire(timeout=10)
        threads: list[int] = []
        second = pool.submit(lambda: (threads.append(threading.get_ident()), group.submit(entries("second"))))
        wait_for(lambda: len(group._waiting) == 1)
        third = pool.submit(group.submit, entries("third"))
        wait_for(lambda: len(group._waiting) == 2)
        # When a time limit strikes the thread whose turn comes next
        raise_thread_exception(threads[0], TimeLimit)
        sender.let.release(2)
        # Then its entry is not sent, and the other's is.
        assert isinstance(second.exception(10), TimeLimit)
        assert [first.result(10), third.result(10)] == [[None], [None]]
    assert sender.batches == [["first"], ["third"]]


def test_a_thread_that_nobody_wakes_sends_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a batch under way, and a thread that waits for its turn
    monkeypatch.setattr(sender_module, "LONGEST_SLEEP", 0.01)
    sender = Sender()
    group = GroupCommit(sender, most=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(group.submit, entries("first"))
        assert sender.begun.acquire(timeout=10)
        second = pool.submit(group.submit, entries("second"))
        wait_for(lambda: len(group._waiting) == 1)
        # When a time limit strikes the thread that should wake it
        monkeypatch.setattr(group, "_wake_sender", lambda: None)
        sender.let.release(2)
        # Then it sends its entry by itself.
        assert [first.result(10), second.result(10)] == [[None], [None]]
    assert sender.batches == [["first"], ["second"]]


def test_a_batch_wakes_only_its_own_callers_and_the_next_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a batch under way, and threads that wait with entries for three more
    sender, waits = Sender(), []
    group = GroupCommit(sender, most=1)
    wait = threading.Condition.wait

    def counted(condition: threading.Condition, timeout: float | None = None) -> bool:
        waits.append(condition)
        return wait(condition, timeout)

    monkeypatch.setattr(threading.Condition, "wait", counted)
    callers = 3 * MAX_BATCH
    with ThreadPoolExecutor(callers + 1) as pool:
        outcomes = [pool.submit(group.submit, entries("first"))]
        assert sender.begun.acquire(timeout=10)
        outcomes += [pool.submit(group.submit, entries(str(n))) for n in range(callers)]
        wait_for(lambda: len(group._waiting) == callers)
        # When all are sent
        sender.let.release(4)
        assert [outcome.result(10) for outcome in outcomes] == [[None]] * (callers + 1)
    # Then each of them waited once: for its outcome, or for its turn.
    per_thread = Counter(id(condition) for condition in waits if condition.__dict__["_lock"] is group._lock)
    assert len(per_thread) == callers
    assert max(per_thread.values()) == 1
