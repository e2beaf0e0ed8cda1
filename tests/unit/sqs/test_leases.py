"""Leases: what one step extends, releases and deletes, on a clock and an SQS that the test controls."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.sqs.leases import DELETE_WAIT, MAX_LEASE, Lease, Leases
from tests.support.moved_clock import MovedClock
from tests.support.scripted_sqs import ScriptedSQS, blame_sender, blame_service, confirm, confirm_nothing, fail

DELETE, CHANGE = "delete_message_batch", "change_message_visibility_batch"


def made(sqs: ScriptedSQS, clock: MovedClock, *, visibility: int = 45, seed: int = 1, **more: Any) -> Leases:
    return Leases("work", lambda: "http://sqs/work", lambda: sqs, visibility, clock, random.Random(seed), **more)


@pytest.fixture
def leases(sqs: ScriptedSQS, clock: MovedClock) -> Leases:
    return made(sqs, clock)


def add(leases: Leases, name: str) -> Lease:
    lease = leases.add(name, f"handle of {name}")
    assert lease
    return lease


def pass_time(leases: Leases, clock: MovedClock, seconds: float) -> None:
    """Step the leases whenever they are due, for some seconds."""
    until = clock.now + seconds
    while clock.now < until:
        wait = leases.step()
        clock.now = min(until, clock.now + (seconds if wait is None else max(wait, 0.001)))
    leases.step()


def test_a_lease_is_extended_after_a_third_of_its_visibility_timeout(leases, sqs, clock) -> None:
    add(leases, "a")
    assert leases.step() == 15
    assert sqs.requests == []
    clock.now += 15
    assert leases.step() == 15
    ((entry,),) = sqs.of(CHANGE)
    assert (entry["ReceiptHandle"], entry["VisibilityTimeout"]) == ("handle of a", 45)


def test_a_failed_extension_is_retried_soon(leases, sqs, clock) -> None:
    add(leases, "a")
    clock.now += 15
    sqs.answers[CHANGE] = fail
    assert leases.step() == 3
    sqs.answers[CHANGE] = confirm_nothing
    clock.now += 3
    assert leases.step() == 3


def test_a_lease_ends_counted_from_the_request_that_extended_it(leases, sqs, clock) -> None:
    # Given an extension that SQS may have applied at once, and whose answer takes 30 s
    add(leases, "a")

    def slowly(entries):
        clock.now += 30
        return confirm(entries)

    sqs.answers[CHANGE] = slowly
    clock.now += 15
    # Then the next one is due at once, and the lease has 15 s left.
    assert leases.step() == 0
    clock.now += 14
    assert not leases.blocks_receiving
    clock.now += 1
    assert leases.blocks_receiving


def test_deletes_wait_a_moment_for_a_full_batch(leases, sqs, clock) -> None:
    held = [add(leases, str(n)) for n in range(12)]
    for lease in held[:9]:
        leases.complete(lease)
    assert leases.step() == DELETE_WAIT
    assert sqs.of(DELETE) == []
    leases.complete(held[9])
    leases.step()
    assert [len(batch) for batch in sqs.of(DELETE)] == [10]
    leases.complete(held[10])
    clock.now += DELETE_WAIT
    leases.step()
    assert [len(batch) for batch in sqs.of(DELETE)] == [10, 1]


def test_a_message_that_went_elsewhere_is_deleted_at_once_with_those_that_wait(leases, sqs, clock) -> None:
    leases.complete(add(leases, "done"))
    leases.complete(add(leases, "moved"), at_once=True)
    assert leases.step() is None
    assert sqs.handles(DELETE) == [["handle of done", "handle of moved"]]


def test_a_message_that_went_elsewhere_waits_while_sqs_refuses_deletes(leases, sqs, clock) -> None:
    sqs.answers[DELETE] = fail
    leases.complete(add(leases, "first"), at_once=True)
    assert leases.step()
    leases.complete(add(leases, "second"), at_once=True)
    leases.step()
    assert len(sqs.of(DELETE)) == 1


def test_leases_are_extended_before_anything_is_released_or_deleted(leases, sqs, clock) -> None:
    # Given a lease to be extended, while others are released and deleted
    add(leases, "in progress")
    clock.now += 15 - DELETE_WAIT
    released, done = add(leases, "released"), add(leases, "done")
    leases.release([released])
    leases.complete(done)
    # When all are due
    clock.now += DELETE_WAIT
    leases.step()
    # Then the extension is the first request, because the others may take half a minute each.
    assert [(name, entries[0]["ReceiptHandle"]) for name, entries in sqs.requests] == [
        (CHANGE, "handle of in progress"),
        (CHANGE, "handle of released"),
        (DELETE, "handle of done"),
    ]


def test_finished_messages_are_extended_while_sqs_refuses_deletes(leases, sqs, clock) -> None:
    # Given a finished message, and an SQS that refuses deletes for longer than any lease
    leases.complete(add(leases, "a"))
    sqs.answers[DELETE] = fail
    pass_time(leases, clock, MAX_LEASE + 60)
    # Then its lease was extended all the time,
    assert len(sqs.of(CHANGE)) >= (MAX_LEASE + 60) // 15 - 1
    assert not leases.is_idle
    # the attempts became rare,
    assert len(sqs.of(DELETE)) < 200
    # and it is deleted as soon as SQS accepts that.
    sqs.answers[DELETE] = confirm
    pass_time(leases, clock, 15)
    assert leases.is_idle


def test_a_finished_message_that_is_delivered_again_is_deleted_again_and_not_run_again(leases, sqs, clock) -> None:
    # Given a finished message whose delete fails
    leases.complete(add(leases, "a"))
    sqs.answers[DELETE] = fail
    pass_time(leases, clock, 2 * DELETE_WAIT)
    # When SQS delivers it again
    assert leases.add("a", "newer handle") is None
    # Then the delete uses the newer handle.
    sqs.answers[DELETE] = confirm
    pass_time(leases, clock, 15)
    assert sqs.handles(DELETE)[-1] == ["newer handle"]
    assert leases.is_idle


def test_a_message_delivered_again_during_its_delete_is_deleted_once_more(leases, sqs, clock) -> None:
    leases.complete(add(leases, "a"))

    def deliver_again(entries):
        assert leases.add("a", "newer handle") is None
        sqs.answers[DELETE] = confirm
        return confirm(entries)

    sqs.answers[DELETE] = deliver_again
    pass_time(leases, clock, 15)
    assert sqs.handles(DELETE) == [["handle of a"], ["newer handle"]]


def test_a_message_in_progress_that_is_delivered_again_is_not_run_twice(leases, sqs, clock) -> None:
    lease = add(leases, "a")
    assert leases.add("a", "newer handle") is None
    leases.complete(lease)
    pass_time(leases, clock, 2 * DELETE_WAIT)
    assert sqs.handles(DELETE) == [["newer handle"]]


@pytest.mark.parametrize("answer", [fail, confirm_nothing, blame_service])
def test_a_delete_that_is_not_confirmed_is_retried(leases, sqs, clock, answer) -> None:
    leases.complete(add(leases, "a"))
    sqs.answers[DELETE] = answer
    pass_time(leases, clock, 2 * DELETE_WAIT)
    assert not leases.is_idle
    sqs.answers[DELETE] = confirm
    pass_time(leases, clock, 15)
    assert leases.is_idle


def test_a_stale_delete_is_not_retried(leases, sqs, clock) -> None:
    leases.complete(add(leases, "a"))
    sqs.answers[DELETE] = blame_sender
    pass_time(leases, clock, 60)
    assert len(sqs.of(DELETE)) == 1
    assert leases.is_idle


def test_waits_after_failed_deletes_grow_and_vary(sqs, clock) -> None:
    def waits(seed: int) -> list[float]:
        sqs.requests.clear()
        sqs.answers[DELETE] = fail
        leases = made(sqs, clock, visibility=10_000, seed=seed)
        leases.complete(add(leases, "a"))
        clock.now += 1
        found = []
        for _ in range(8):
            found.append(leases.step() or 0)
            clock.now += found[-1]
        return found

    one, other = waits(1), waits(2)
    assert one != other
    assert all(0.25 <= wait <= 15 for wait in one + other)
    assert min(one[-2:]) >= 7.5


def test_the_lease_of_an_actor_that_hangs_is_lost_and_its_message_not_deleted(leases, sqs, clock) -> None:
    lease = add(leases, "a")
    lease.began = clock.now
    pass_time(leases, clock, MAX_LEASE + 15)
    assert lease.is_lost
    leases.complete(lease)
    pass_time(leases, clock, 60)
    assert sqs.of(DELETE) == []


def test_a_lease_whose_message_waits_or_is_settled_is_kept_at_any_age(leases, sqs, clock) -> None:
    # Given a message that waits for a thread, or whose settlement waits for SQS
    lease = add(leases, "a")
    # When far more time passes than an actor may take
    pass_time(leases, clock, 4 * MAX_LEASE)
    # Then its lease is still extended, and the message is deleted in the end.
    assert not lease.is_lost
    leases.complete(lease)
    pass_time(leases, clock, 2 * DELETE_WAIT)
    assert sqs.handles(DELETE) == [["handle of a"]]


def test_a_stale_extension_loses_the_lease(leases, sqs, clock) -> None:
    lease = add(leases, "a")
    sqs.answers[CHANGE] = blame_sender
    pass_time(leases, clock, 16)
    assert lease.is_lost
    assert len(leases) == 0
    # A later receive of the same message is a new lease.
    again = add(leases, "a")
    leases.complete(lease)
    assert again in leases


def test_released_messages_become_visible_after_their_delay(leases, sqs, clock) -> None:
    kept, first, second = (add(leases, name) for name in ("kept", "first", "second"))
    leases.release([first], 7)
    leases.release([second, second])
    leases.complete(first)
    assert len(leases) == 1
    leases.step()
    (entries,) = sqs.of(CHANGE)
    assert [(e["ReceiptHandle"], e["VisibilityTimeout"]) for e in entries] == [
        ("handle of first", 7),
        ("handle of second", 0),
    ]
    assert kept in leases
    assert sqs.of(DELETE) == []


@pytest.mark.parametrize("is_done", [False, True])
def test_a_lease_that_sqs_does_not_extend_in_time_blocks_receiving(sqs, clock, is_done) -> None:
    # Given a lease that SQS does not extend
    freed: list[float] = []
    leases = made(sqs, clock, freed=lambda: freed.append(clock.now))
    sqs.answers[CHANGE] = sqs.answers[DELETE] = fail
    lease = add(leases, "a")
    if is_done:
        leases.complete(lease)
    # When its time is over, nothing more is received,
    pass_time(leases, clock, 44)
    assert not leases.blocks_receiving
    pass_time(leases, clock, 1)
    assert leases.blocks_receiving
    # until SQS extends it.
    freed.clear()
    sqs.answers[CHANGE] = confirm
    pass_time(leases, clock, 3)
    assert not leases.blocks_receiving
    assert freed


def test_a_message_that_comes_back_to_this_process_does_not_unblock_receiving(sqs, clock) -> None:
    # Given a lease that SQS does not extend
    leases = made(sqs, clock)
    sqs.answers[CHANGE] = fail
    add(leases, "a")
    pass_time(leases, clock, 44.9)
    # When a poll that was out receives its message again, in SQS's time a little earlier than in ours
    assert leases.add("a", "handle 2") is None
    pass_time(leases, clock, 0.2)
    # Then nothing more is received: otherwise the process would use up the receives of the message.
    assert leases.blocks_receiving
    # When SQS extends the new lease, then it is as before.
    sqs.answers[CHANGE] = confirm
    pass_time(leases, clock, 3)
    assert sqs.handles(CHANGE)[-1] == ["handle 2"]
    assert not leases.blocks_receiving


def test_closing_deletes_at_once(leases, sqs, clock) -> None:
    first, second = add(leases, "first"), add(leases, "second")
    leases.complete(first)
    leases.close()
    leases.step()
    leases.complete(second)
    leases.step()
    assert sqs.handles(DELETE) == [["handle of first"], ["handle of second"]]


def test_the_stepping_thread_is_woken_only_for_what_is_due_earlier(sqs, clock) -> None:
    woken: list[float] = []
    leases = made(sqs, clock, wake=lambda: woken.append(clock.now))
    held = [add(leases, str(n)) for n in range(3)]
    assert len(woken) == 1
    leases.step()
    for lease in held:
        leases.complete(lease)
    assert len(woken) == 2


def test_extensions_never_wait_for_many_slow_deletes(leases, sqs, clock) -> None:
    # Given a message in progress, many finished ones, and an SQS that takes 20 s for each delete
    add(leases, "in progress")
    for n in range(100):
        leases.complete(add(leases, str(n)))
    extended: list[float] = [clock.now]

    def slowly(entries):
        clock.now += 20
        return confirm(entries)

    def note(entries):
        extended.extend(clock.now for entry in entries if entry["ReceiptHandle"] == "handle of in progress")
        return confirm(entries)

    sqs.answers |= {DELETE: slowly, CHANGE: note}
    # When they are deleted
    while len(sqs.of(DELETE)) < 10:
        leases.step()
    # Then the message in progress stayed hidden all the time.
    assert max(later - earlier for earlier, later in pairwise(extended)) < 45


def test_a_step_makes_one_request_if_sqs_does_not_answer(leases, sqs, clock) -> None:
    # Given the leases of a process of 64 threads, released and finished messages, and an SQS that hangs
    names = [str(n) for n in range(128)]
    held = {name: add(leases, name) for name in names}
    leases.release([held["0"]])
    leases.complete(held["1"], at_once=True)

    def hang(entries):
        clock.now += 30
        raise TimeoutError

    sqs.answers |= {CHANGE: hang, DELETE: hang}
    clock.now += 15
    # When a step begins, then it makes one request, so its thread is not late.
    began = clock.now
    leases.step()
    assert clock.now - began == 30
    # When SQS answers again, then all leases are extended in the next steps.
    sqs.answers.clear()
    sqs.requests.clear()
    pass_time(leases, clock, 4)
    extended = {handle for handles in sqs.handles(CHANGE) for handle in handles}
    assert extended >= {f"handle of {name}" for name in names[1:]}


def test_refused_extensions_hold_up_neither_releases_nor_deletes(leases, sqs, clock) -> None:
    add(leases, "kept")
    leases.release([add(leases, "released")])
    leases.complete(add(leases, "finished"), at_once=True)
    sqs.answers[CHANGE] = refuse
    clock.now += 15
    leases.step()
    assert sqs.handles(CHANGE) == [["handle of kept", "handle of finished"], ["handle of released"]]
    assert sqs.handles(DELETE) == [["handle of finished"]]


def refuse(entries):
    raise ClientError({"Error": {"Code": "AccessDenied"}}, "ChangeMessageVisibilityBatch")


@pytest.mark.parametrize("answer", [{"Failed": [{"Id": "0"}]}, {"Successful": [{}]}, {"Successful": None}, [], None])
def test_an_answer_of_another_form_confirms_nothing_and_ends_no_step(leases, sqs, clock, answer) -> None:
    add(leases, "a")
    leases.complete(add(leases, "b"))
    sqs.answers |= dict.fromkeys((CHANGE, DELETE), lambda entries: answer)
    clock.now += 15
    assert leases.step() is not None
    assert (len(leases), leases.is_idle) == (1, False)


def test_two_threads_that_step_at_the_same_time_forget_no_release(leases, sqs, clock) -> None:
    # Given 30 released messages, and a thread in the middle of a request
    begun, go_on = threading.Event(), threading.Event()

    def slowly(entries):
        begun.set()
        assert go_on.wait(10)
        return confirm(entries)

    sqs.answers[CHANGE] = slowly
    leases.release([add(leases, str(n)) for n in range(30)])
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(leases.step)
        assert begun.wait(10)
        second = pool.submit(leases.step)
        go_on.set()
        assert [first.result(10), second.result(10)]
    # When both have ended, and the rest was released
    while not leases.is_idle:
        leases.step()
    # Then each was released once.
    assert sorted(handle for handles in sqs.handles(CHANGE) for handle in handles) == sorted(
        f"handle of {n}" for n in range(30)
    )
