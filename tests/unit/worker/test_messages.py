"""Messages between stages: a body that another JSON parser would refuse is refused before anything is made of it."""

from __future__ import annotations

import json
from typing import Any

import dramatiq
import pytest

from pipeline.job import Job, Source
from pipeline.sqs.leases import Lease
from pipeline.sqs.settlement import SQSMessage
from pipeline.sqs.wire import ATTEMPTS, decode, encode
from pipeline.worker.messages import Encoder, job_kwargs, job_of


def body(**changes: Any) -> str:
    fields = {"queue_name": "fetch", "actor_name": "fetch_image", "args": [], "kwargs": {}, "options": {}}
    return json.dumps({**fields, "message_id": "a", "message_timestamp": 1, **changes})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("field", ["kwargs", "options"])
def test_a_number_that_json_does_not_have_is_refused(field: str, number: str) -> None:
    forged = body(**{field: {"x": ["number"]}}).replace('"number"', number)
    with pytest.raises(ValueError, match="cannot be decoded") as raised:
        decode(forged, Encoder())
    assert number not in str(raised.value)


def test_a_message_that_can_be_decoded_can_be_sent_again() -> None:
    sent = body(kwargs={"payload": {"\ud800": [1.5, -0.0, 1e308, 10**4000, "\x7f\uffff", None]}})
    message = decode(sent, Encoder())
    assert decode(encode(message, Encoder()), Encoder()) == message


@pytest.mark.parametrize(
    ("ticket", "options", "accepted"),
    [("", {}, 1_700_000_000.123), ("t", {}, 0.0), ("", {ATTEMPTS: {}}, 0.0)],
    ids=["first attempt", "on its way since an earlier release", "redriven"],
)
def test_a_job_is_accepted_when_it_is_sent_to_its_first_stage(
    no_variables: None, ticket: str, options: dict[str, Any], accepted: float
) -> None:
    job = Job(id="1", folder="F", sources=(Source("https://example.org/a.png", ("image_url",)),), ticket=ticket)
    sent: dramatiq.Message[Any] = dramatiq.Message(
        "fetch", "fetch_image", (), job_kwargs(job), options, message_timestamp=1_700_000_000_123
    )
    received = SQSMessage(sent, Lease("id", "handle", 0.0, 15.0, 45.0), queue_name="fetch", sqs_id="sqs-1")
    taken = job_of(received)
    assert (taken.accepted, taken.ticket) == (accepted, ticket or "sqs-1")
    assert Job.decode(taken.encode()) == taken
