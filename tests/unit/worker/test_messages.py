"""Messages between stages: a body that another JSON parser would refuse is refused before anything is made of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.sqs.wire import decode, encode
from pipeline.worker.messages import Encoder


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
