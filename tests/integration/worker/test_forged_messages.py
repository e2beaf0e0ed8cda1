"""Messages that a producer forges with its right to send to the fetch queue: a worker, the embedded SQS and MongoDB."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.clients import aws, lazy
from pipeline.settings import get_settings
from pipeline.sqs.queues import MAX_MESSAGE_BYTES
from tests.integration.conftest import worker_of
from tests.support.dead import counts
from tests.support.waiting import wait_for

PAYLOAD = {"image_url": "http://127.0.0.1:9/x", "redirect_queue": "q"}
NIGHT = (datetime.now(UTC) + timedelta(days=1)).replace(hour=1, minute=0, second=0, microsecond=0)

#: Forged messages by id, as changes of a good one.
FORGED: dict[str, dict[str, Any]] = {
    "tonight": {"actor_name": "sweep_channels", "kwargs": {}, "message_timestamp": int(NIGHT.timestamp() * 1000)},
    "operator": {"actor_name": "sweep_channels", "kwargs": {"run": {"$gt": ""}, "page": 0}},
    "recheck": {"actor_name": "sweep_recheck", "kwargs": {"run": "recheck-manual-1", "page": 0}},
    "notify": {"actor_name": "notify_result"},
    "nan": {"kwargs": {"payload": PAYLOAD | {"x": float("nan")}}},
    "nan-option": {"kwargs": {"payload": {}}, "options": {"x": float("inf")}},
    "throws": {"kwargs": {"payload": {}}, "options": {"throws": "ValueError"}},
    "time": {"message_timestamp": 10**400},
}


def send(message_id: str, **changes: Any) -> None:
    from pipeline.actors import broker

    fields = {"queue_name": "fetch", "actor_name": "fetch_image", "args": [], "kwargs": {"payload": PAYLOAD}}
    rest = {"options": {}, "message_id": message_id, "message_timestamp": int(time.time() * 1000)}
    aws.sqs().send_message(QueueUrl=broker.queues.url("fetch"), MessageBody=json.dumps({**fields, **rest, **changes}))


def letters() -> list[tuple[str, str]]:
    """Return the id and the code of each dead letter of fetch; the id is empty if its body waits in staging."""
    from pipeline.actors import broker

    answer = aws.sqs().receive_message(
        QueueUrl=broker.queues.url("fetch_dlq"),
        MaxNumberOfMessages=10,
        WaitTimeSeconds=0,
        VisibilityTimeout=0,
        MessageAttributeNames=["All"],
    )
    return [
        (json.loads(each["Body"]).get("message_id", ""), each["MessageAttributes"]["error_code"]["StringValue"])
        for each in answer.get("Messages", [])
    ]


@pytest.mark.parametrize("key", ["", "0123456789abcdef" * 2])
def test_forged_messages_are_dead_letters_and_touch_no_document(database, monkeypatch, key: str) -> None:
    # Given a document that a sweep would take
    monkeypatch.setenv("JOB_KEY", key)
    lazy.forget()
    document = {"_id": 1, "title": "VICTIM", "image_url": "http://127.0.0.1:9/x.jpg"}
    database["channels"].insert_one(document)
    # When a producer sends messages to the fetch queue that no producer should send, and then a good one
    for name, changes in FORGED.items():
        send(name, **changes)
    old = {"options": {"max_age": 1}, "message_timestamp": 1}  # no option of a sender makes dramatiq drop a job
    send("good", kwargs={"payload": PAYLOAD | {"image_url": "https://["}}, **old)
    with worker_of("fetch", "fetch_quarantine"):
        wait_for(lambda: counts("notify") == (1, 0))
        found = wait_for(lambda: len(found := letters()) == len(FORGED) + 1 and found)
    # Then each is a dead letter with a reason, at its first receive,
    assert dict(found) == dict.fromkeys(FORGED, "bad_message") | {"good": "bad_url"}
    assert counts("fetch") == counts("fetch_quarantine") == counts("fetch_bulk") == (0, 0)
    # and no run has begun, and no document was touched.
    assert list(database["channels"].find()) == [document]
    assert database.list_collection_names() == ["channels"]


def test_a_job_that_grows_too_large_for_its_next_queue_is_a_dead_letter_at_once(environment) -> None:
    # Given a job that a producer made as large as SQS accepts, where no proof is asked for
    from pipeline.actors import broker, fetch_image
    from pipeline.job import Job

    small = Job.accept(PAYLOAD | {"image_url": "https://["}, job_id="a", settings=get_settings(), stage_payload=str)
    body = json.loads(fetch_image.message_of(small).encode())
    room = MAX_MESSAGE_BYTES - len(json.dumps(body, separators=(",", ":"))) - len('"note":"",')
    body["kwargs"]["job"]["payload"]["note"] = "x" * room
    text = json.dumps(body, separators=(",", ":"))
    aws.sqs().send_message(QueueUrl=broker.queues.url("fetch"), MessageBody=text)
    # When fetch adds the error of its source, with which it does not fit into the queue of notify
    with worker_of("fetch", "fetch_quarantine"):
        found = wait_for(lambda: len(found := letters()) == 2 and found)
        wait_for(lambda: counts("fetch") == (0, 0))
    # Then it is a dead letter with a reason, beside that of the source, after one attempt.
    assert {code for _, code in found} == {"bad_url", "message_too_large"}
    assert counts("fetch") == counts("fetch_quarantine") == counts("notify") == (0, 0)
