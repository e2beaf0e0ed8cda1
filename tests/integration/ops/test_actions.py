"""Dead letters on a real SQS endpoint: reading them without loss, redriving them, and deleting them."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

from pipeline.clients import aws, lazy
from pipeline.ops.dead_letters.dead_letter import NO_REASON
from pipeline.ops.dead_letters.reader import QueueReader
from pipeline.settings import get_settings
from pipeline.sqs.wire import Reason, SendEntry
from pipeline.stages import BULK_QUEUES, DEAD_LETTER_QUEUES, FETCH, NOTIFY, RESIZE, UPLOAD, Lane
from pipeline.storage.staging import staging
from pipeline.worker.ingest import job_in
from tests.support.dead import counts, job_at, letter_of, put, refused, sweep_job, taken
from tests.support.waiting import wait_for

STAGED = "3" * 32


# Redriving.


def test_a_redriven_job_is_unchanged_but_has_fresh_attempts_and_its_own_id(dead):
    live, bulk = job_at(), replace(job_at(), lane=Lane.BULK)
    put(letter_of(live, UPLOAD), letter_of(bulk, UPLOAD))

    counted = dead.redrive(rate=1000)

    assert (counted.sent, counted.left, counted.unsent, counted.kept) == ({("upload", "s3_error"): 2}, {}, {}, 0)
    for queue, job in (("upload", live), ("upload_bulk", bulk)):
        (message,) = taken(queue)
        assert message["kwargs"]["job"] == replace(job, redrives=1).encode()
        assert message["actor_name"] == "upload_image"
        assert message["options"] == {"attempts": {}, "group": "SHOW", "other": 1}
    assert counts("upload_dlq") == (0, 0)


def test_a_limit_applies_to_all_queues_together(dead):
    # Given more letters of two stages than one request returns
    put(*(letter_of(job_at(f"http://h/{n}"), [UPLOAD, NOTIFY][n % 2]) for n in range(48)))
    # When up to 13 are redriven, then exactly 13 are sent.
    assert dead.redrive(rate=1000, limit=13).sent.total() == 13
    assert sum(counts(queue)[0] for queue in ("upload_dlq", "notify_dlq")) == 35


def test_a_letter_that_fails_again_is_not_redriven_twice(dead, broker, monkeypatch):
    # Given a stage that fails every job at once
    put(letter_of(job_at(), UPLOAD))
    sent = broker.enqueue_many

    def failing(messages):
        errors = sent(messages)
        put(*(letter_of(replace(job_at(), redrives=1), UPLOAD) for _ in messages))
        return errors

    monkeypatch.setattr(broker, "enqueue_many", failing)
    # When its letters are redriven, then each is sent once, and a new letter stays.
    assert dead.redrive(rate=1000).sent.total() == 1
    (letter,) = dead.browse()
    assert letter.report_id.endswith(".r2")


def test_a_letter_is_deleted_only_after_its_message_was_confirmed(dead, broker, monkeypatch):
    put(*(letter_of(job_at(f"http://h/{n}"), UPLOAD) for n in range(4)))
    sent = broker.enqueue_many
    monkeypatch.setattr(
        broker, "enqueue_many", lambda m: [*sent(m[:1]), *[RuntimeError("SQS said no.")] * (len(m) - 1)]
    )

    progress: list = []
    counted = dead.redrive(rate=1000, progress=lambda now: progress.append(now.attempted))

    assert (counted.sent.total(), counted.unsent) == (1, {"SQS said no.": 3})
    assert progress[-1] == 4
    assert counts("upload_dlq") == (3, 0)
    assert len(taken("upload")) == 1


def test_a_letter_that_cannot_be_deleted_is_counted_and_stays(dead, spoiled):
    put(letter_of(job_at(), UPLOAD))
    refusal = {"Failed": [{"Id": "0", "Code": "InternalError", "SenderFault": False}]}
    spoiled("delete_message_batch", lambda delete: lambda **_: refusal)
    counted = dead.redrive(rate=1000)
    assert (counted.sent.total(), counted.kept) == (1, 1)
    assert counts("upload_dlq") == (1, 0)


def test_letters_that_would_be_rejected_again_stay_with_a_reason(dead, broker, monkeypatch):
    monkeypatch.setenv("QUEUE_URL", broker.queues.url("in"))
    lazy.forget()
    queue, entry = letter_of(job_at(), RESIZE, "bad_job")
    put(
        refused("{nope", "not_json"),
        refused(json.dumps({"image_url": "N/A", "postback_url": "http://p/"}), "no_image"),
        ("upload_dlq", SendEntry.of_dead_letter("hello", Reason("bad_message", "No job.", stage="upload"))),
        (queue, replace(entry, body=entry.body.replace('"folder":"SHOW"', '"folder":5'))),
    )

    survey = dead.survey()
    counted = dead.redrive(rate=1000)

    assert survey.sendable == 0
    assert sum(counted.left.values()) == survey.total == 4
    assert set(counted.left) == {
        "It would be rejected again: It is not valid JSON.",
        "It would be rejected again: The message contains no image: image_url or itunes_image is required.",
        "No worker would accept it: it cannot be decoded (JSONDecodeError).",
        "It would be rejected again: The message contains a job that cannot be read.",
    }
    assert sum(counts(queue)[0] for queue in DEAD_LETTER_QUEUES.values()) == 4


def test_input_that_is_acceptable_now_goes_to_the_input_queue(dead, monkeypatch):
    queue = aws.sqs().create_queue(
        QueueName=f"{get_settings().queue_namespace}-in.fifo", Attributes={"FifoQueue": "true"}
    )["QueueUrl"]
    payload = {"image_url": "http://h/x", "redirect_queue": "Named-like-ours-before", "n": 1.5}
    put(refused(json.dumps(payload), "bad_redirect_queue"))
    assert dead.survey().groups == {("ingest", "bad_redirect_queue", "QUEUE_URL, which it came from, is not set."): 1}

    monkeypatch.setenv("QUEUE_URL", queue)
    lazy.forget()
    assert dead.redrive(rate=1000).sent == {("ingest", "bad_redirect_queue"): 1}

    (message,) = aws.sqs().receive_message(QueueUrl=queue)["Messages"]
    assert json.loads(message["Body"]) == payload
    assert counts("ingest_dlq") == (0, 0)


def test_an_input_letter_that_is_redriven_twice_is_one_job(dead, monkeypatch):
    # Given a letter that was sent, and whose delete fails
    queue = aws.sqs().create_queue(QueueName=f"{get_settings().queue_namespace}-in")["QueueUrl"]
    monkeypatch.setenv("QUEUE_URL", queue)
    lazy.forget()
    put(refused(json.dumps({"image_url": "http://h/x", "postback_url": "http://p/"}), "bad_redirect_queue"))
    with monkeypatch.context() as patch:
        patch.setattr(QueueReader, "delete", lambda self, messages: list(messages))
        assert dead.redrive(rate=1000).kept == 1
    # When it is redriven again, then ingest makes the same job of both messages.
    wait_for(lambda: counts("ingest_dlq") == (1, 0))
    assert dead.redrive(rate=1000).kept == 0
    request = {"MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"], "WaitTimeSeconds": 1}
    received = aws.sqs().receive_message(QueueUrl=queue, **request)["Messages"]
    assert len({message["MessageId"] for message in received}) == 2
    assert len({job_in(message, staging().put).id for message in received}) == 1


def test_a_body_in_staging_is_fetched_from_there(dead, monkeypatch, broker):
    monkeypatch.setenv("QUEUE_URL", broker.queues.url("in"))
    lazy.forget()
    key = staging().put(json.dumps({"image_url": "http://h/big", "postback_url": "http://p/"}).encode())
    for each in (key, STAGED):
        reason = Reason("bad_redirect_queue", "It was refused.", stage="ingest", key=each)
        put(("ingest_dlq", SendEntry.of_dead_letter("{}", reason)))

    survey = dead.survey()

    assert survey.sendable == 1
    gone = f"The staged bytes are gone (key {STAGED!r})."
    gone = f"Its body, which was too large for SQS, cannot be read: {gone}"
    assert {obstacle for *_, obstacle in survey.groups} == {"", gone}
    assert dead.browse(dead.Filter(host="h"))[0].urls == ("h/big",)
    assert dead.redrive(rate=1000).sent.total() == 1
    assert taken("in")[0]["image_url"] == "http://h/big"


def test_a_sweeps_jobs_are_left_to_sweep_retry_except_write_backs(dead):
    put(*(letter_of(sweep_job(), stage, "mongo_error") for stage in (FETCH, UPLOAD, NOTIFY)))
    put(letter_of(sweep_job(), RESIZE, with_reason=False))  # its failure was never written to the documents

    counted = dead.redrive(rate=1000)

    assert counted.sent == {("notify", "mongo_error"): 1, ("resize", NO_REASON): 1}
    ((why, number),) = counted.left.items()
    assert number == 2
    assert "`image-pipeline sweep retry episodes`" in why
    assert {queue: len(taken(queue)) for queue in BULK_QUEUES} == dict.fromkeys(BULK_QUEUES, 0) | {
        "notify_bulk": 1,
        "resize_bulk": 1,
    }


def test_the_page_of_a_sweep_can_be_sent_again(dead, broker):
    message = broker.get_actor("sweep_channels").message(run="channels-1", page=3)
    from pipeline.sqs.wire import encode

    reason = Reason("worker_crashed", "It died.", stage="sweep_channels")
    put(("sweep_channels_dlq", SendEntry.of_dead_letter(encode(message), reason)))
    assert dead.redrive(dead.Filter(stage="sweep_channels"), rate=1000).sent.total() == 1
    (sent,) = taken("sweep_channels")
    assert sent["kwargs"] == {"run": "channels-1", "page": 3}


def test_a_job_of_a_newer_release_is_left_to_it(dead):
    queue, entry = letter_of(job_at(), UPLOAD, "unknown_version")
    put((queue, replace(entry, body=entry.body.replace('"v":1', '"v":99'))))
    assert dead.redrive(rate=1000).left == {
        "This release cannot read it: the job has version 99; this worker knows 1. A newer release can.": 1
    }


# Deleting.


def test_a_purge_deletes_only_matching_letters(dead):
    put(*(letter_of(job_at(f"http://h/{n}"), UPLOAD, ["s3_error", "bad_job"][n % 2]) for n in range(24)))
    progress: list[int] = []
    assert dead.purge(dead.Filter(code="bad_job"), progress=progress.append) == 12
    assert progress[-1] == 12
    assert counts("upload_dlq") == (12, 0)
    assert {letter.code for letter in dead.browse()} == {"s3_error"}


def test_no_more_letters_are_deleted_than_were_confirmed(dead):
    # Given counted letters of two stages
    put(*(letter_of(job_at(f"http://h/{n}"), [UPLOAD, NOTIFY][n % 2]) for n in range(48)))
    survey = dead.survey()
    # When up to 13 are deleted, then exactly 13 are, over all queues together.
    assert dead.purge(dead.EVERYTHING, until=survey.newest, limit=13) == 13
    assert sum(counts(queue)[0] for queue in ("upload_dlq", "notify_dlq")) == 35
    assert sum(counts(queue)[1] for queue in ("upload_dlq", "notify_dlq")) == 0


def test_the_rate_applies_to_all_threads_together(dead):
    now = [100.0]
    waits: list[float] = []

    class Stopped(threading.Event):
        def wait(self, timeout=None):
            waits.append(round(timeout, 3))
            return False

    pace = dead.Pace(20, Stopped(), clock=lambda: now[0])
    assert pace.batch == 10
    assert all(pace.wait(10) for _ in range(3))
    now[0] += 10
    assert pace.wait(1)
    assert waits == [0, 0.5, 1, 0]
    assert [dead.Pace(rate, Stopped()).batch for rate in (0.1, 1, 5.5, 200)] == [1, 1, 5, 10]
