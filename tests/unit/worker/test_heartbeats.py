"""The state of a worker in its heartbeat."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest

from pipeline.sqs.in_hand import InHand
from pipeline.sqs.leases import Lease
from pipeline.sqs.loop import Clock
from pipeline.sqs.settlement import SQSMessage
from pipeline.worker.heartbeats import work_of


class Health:
    """A process that is live and stops."""

    def not_live(self) -> list[str]:
        return []

    def not_ready(self) -> list[str]:
        return ["it is stopping"]


def received(queue: str, **kwargs: Any) -> SQSMessage:
    message: dramatiq.Message[Any] = dramatiq.Message(queue, "fetch_image", (), kwargs, {}, message_id="message-1")
    return SQSMessage(message, Lease("id", "handle", 0.0), queue_name=queue)


@pytest.mark.parametrize(
    ("message", "stage", "job"),
    [
        pytest.param(received("fetch", job={"id": "job-1"}), "fetch", "job-1", id="job"),
        pytest.param(received("fetch_bulk", payload={}), "fetch", "message-1", id="payload"),
        pytest.param(received("fetch_quarantine", job={"id": "job-1"}), "quarantine", "job-1", id="quarantine"),
    ],
)
def test_a_heartbeat_names_the_job_of_each_busy_thread(message: SQSMessage, stage: str, job: str) -> None:
    # Given a thread that starts a message
    in_hand = InHand(Clock(), lambda _: False)
    in_hand.start(message)
    # Then the heartbeat has its stage and job, and the reason why the process takes no work.
    work = work_of(in_hand, Health())
    assert [(each.stage, each.job) for each in work.in_hand] == [(stage, job)]
    assert list(work.taken) == [stage]
    assert work.trouble == ("it is stopping",)
    # When its actor has ended, then nothing is in progress, although its settlement may still be.
    message.lease.began = None
    assert work_of(in_hand, Health()).in_hand == ()
    assert list(work_of(in_hand, Health()).taken) == [stage]
