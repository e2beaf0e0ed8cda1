"""Receiving step by step, as ingest uses it: failures, refused deletes and threads that share their transfers."""

from __future__ import annotations

import pytest

import pipeline.actors  # noqa: F401 - builds the broker, from which the actors' messages come
from pipeline.sqs.leases import LAST_BACKOFF
from pipeline.sqs.receiver import Transfer
from pipeline.sqs.wire import SendEntry, SendFailed
from tests.support.driven_ingest import CHANGE, DELETE, GOOD, Driven, refuse_all
from tests.support.scripted_sqs import fail


@pytest.fixture
def driven() -> Driven:
    return Driven()


def test_an_outage_of_any_length_costs_no_receives(driven: Driven) -> None:
    # Given an SQS that takes no sends for three hours
    ids = driven.arrive(*[GOOD] * 10)
    driven.sent.refuse = refuse_all
    driven.go_on(3 * 3600)
    # Then ingest receives nothing more, keeps what it has, and tries at growing intervals;
    assert driven.received == 1
    assert driven.deleted == set()
    assert len(driven.ingest.receiver.leases) == 10
    assert 3 * 3600 / 15 < driven.sent.attempts < 3 * 3600 / 5
    extended = {handle for handles in driven.sqs.handles(CHANGE) for handle in handles}
    assert len(extended) == 10
    # and when SQS takes sends again, each is handed over once, and ingest receives again.
    driven.sent.refuse = lambda _: None
    driven.go_on(20)
    assert sorted(driven.sent.jobs) == sorted(ids)
    assert len(driven.deleted) == 10
    assert driven.received > 2


def test_after_a_confirmed_hand_over_the_next_failure_is_retried_soon_again(driven: Driven) -> None:
    # Given an outage after which hand-overs are retried at the longest interval, and its end
    driven.arrive(GOOD)
    driven.sent.refuse = refuse_all
    driven.go_on(120)
    driven.sent.refuse = lambda _: None
    driven.go_on(20)
    # When another hand-over fails
    driven.arrive(GOOD)
    driven.sent.refuse = refuse_all
    attempts = driven.sent.attempts
    driven.go_on(6)
    # Then it is tried again within seconds.
    assert driven.sent.attempts - attempts >= 3


def test_none_is_received_while_another_thread_tries_a_failed_hand_over_again(driven: Driven) -> None:
    # Given a batch that SQS did not take
    driven.arrive(GOOD)
    driven.sent.refuse = refuse_all
    driven.ingest.receiver.step()
    driven.arrive(GOOD)
    # When one thread tries it again, then the other one receives nothing meanwhile.
    driven.sent.refuse = lambda _: driven.ingest.receiver.step() and SendFailed("SQS is down")
    driven.clock.now += LAST_BACKOFF
    assert driven.ingest.receiver.step()
    assert driven.received == 1


def test_a_message_whose_lease_was_lost_is_left_to_the_process_that_has_it(driven: Driven) -> None:
    driven.arrive(GOOD)
    driven.sent.refuse = refuse_all
    driven.ingest.receiver.step()
    stale = {"SenderFault": True, "Code": "ReceiptHandleIsInvalid"}
    driven.sqs.answers[CHANGE] = lambda entries: {"Failed": [{"Id": entry["Id"], **stale} for entry in entries]}
    driven.go_on(30)
    driven.sqs.answers.clear()
    driven.sent.refuse = lambda _: None
    driven.go_on(30)
    assert driven.sent.jobs == []
    assert driven.received > 1


def test_it_goes_on_when_receives_fail(driven: Driven, caplog: pytest.LogCaptureFixture) -> None:
    (id_,) = driven.arrive(GOOD)
    receive = driven.sqs.receive_message
    driven.sqs.receive_message = lambda **_: fail([])  # type: ignore[method-assign]
    wait = driven.ingest.receiver.step()
    assert wait
    assert driven.ingest.unanswered_since is not None
    assert "ingest: cannot receive (ConnectionError)." in caplog.text
    driven.sqs.receive_message = receive  # type: ignore[method-assign]
    driven.go_on(5)
    assert driven.sent.jobs == [id_]


def test_the_end_of_a_poll_does_not_end_the_failure_of_another_thread(driven: Driven) -> None:
    # Given a failed hand-over that one thread tries again
    receiver, seen = driven.ingest.receiver, list[bool]()
    driven.arrive(GOOD)
    driven.sent.refuse = refuse_all
    receiver.step()
    since = receiver.unanswered_since

    def meanwhile(_: str) -> Exception:
        # When the poll of the other thread, which was out all the time, returns nothing
        receiver.send_transfers()
        seen.append(receiver.is_failing)
        return SendFailed("SQS is down")

    driven.sent.refuse = meanwhile
    receiver.send_transfers()
    # Then nothing may be received yet, and the failure counts from its beginning.
    assert (seen, receiver.unanswered_since) == ([True], since)


def test_a_thread_whose_transfers_another_takes_up_goes_on(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given another thread that notes a transfer after this one has sent its own, and takes it up before this one looks
    receiver = driven.ingest.receiver
    lease = receiver.leases.add("other", "handle of other")
    assert lease
    send, receive = receiver.send_transfers, receiver.receive

    def send_and_meanwhile() -> None:
        send()
        receiver.transfer(Transfer(lease, lambda: ("fetch", SendEntry("other job"))))

    def receive_and_meanwhile() -> float | None:
        with monkeypatch.context() as patch:
            patch.setattr(receiver, "send_transfers", send_and_meanwhile)
            wait = receive()
        send()
        return wait

    monkeypatch.setattr(receiver, "receive", receive_and_meanwhile)
    # When this thread has stepped, then it does so again by itself.
    assert receiver.step() is not None


def test_a_send_that_raises_is_repeated(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    (id_,) = driven.arrive(GOOD)

    def cannot_start(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(driven.sent, "send", cannot_start)
        driven.ingest.receiver.step()
    driven.go_on(30)
    assert driven.sent.jobs == [id_]


def test_it_is_not_ready_while_refused_deletes_keep_it_from_receiving(driven: Driven, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.sqs.leases.MAX_UNDELETED", 2)
    driven.arrive(GOOD, GOOD)
    driven.sqs.answers[DELETE] = fail
    driven.go_on(120)
    assert driven.received == 1
    assert driven.ingest.unanswered_since is not None
    assert driven.clock.now - driven.ingest.unanswered_since > 60
    # When SQS takes deletes, then it receives and is ready again.
    driven.sqs.answers.clear()
    driven.go_on(30)
    assert driven.ingest.unanswered_since is None
