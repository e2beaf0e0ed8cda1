"""Browsing dead letters leaves them as they are, on the embedded SQS."""

from __future__ import annotations

import threading

import pytest
from botocore.exceptions import EndpointConnectionError

from pipeline.clients import lazy
from pipeline.errors import RetryableError, SettingsError
from pipeline.stages import FETCH, UPLOAD
from tests.support.dead import counts, job_at, letter_of, put

STAGED = "3" * 32


def test_browsing_leaves_the_letters_unchanged(dead):
    put(*(letter_of(job_at(f"http://h/{n}"), UPLOAD) for n in range(47)), letter_of(job_at(), FETCH, "http_404"))

    for _ in range(12):  # more often than the maxReceiveCount of the stages' queues
        assert len(dead.browse()) == 48
        assert (counts("upload_dlq"), counts("fetch_dlq")) == ((47, 0), (1, 0))


def test_counting_up_to_a_limit_ends_early_and_releases_all(dead):
    put(*(letter_of(job_at(f"http://h/{n}"), UPLOAD) for n in range(47)))
    part, whole = dead.survey(keep=5, limit=5), dead.survey(keep=50, limit=47)
    assert (len(part.latest), part.complete, part.total < 47) == (5, False, True)
    assert (len(whole.latest), whole.complete, whole.total) == (47, True, 47)
    assert counts("upload_dlq") == (47, 0)


def test_counted_letters_are_kept_without_their_bodies(dead):
    put(letter_of(job_at("http://h/1", large="x" * 60_000), UPLOAD))
    (letter,) = dead.survey(keep=10).latest
    assert (letter.urls, letter.body, letter.job) == (("h/1",), "", None)
    (letter,) = dead.browse()
    assert len(letter.body) > 60_000


def test_purging_a_queue_that_keeps_growing_ends(dead, spoiled):
    # Given letters that arrive as fast as they are read
    put(letter_of(job_at(), UPLOAD))
    more = threading.Event()

    def growing(receive):
        def call(**request):
            if more.is_set():
                put(letter_of(job_at(), UPLOAD))
            return receive(**request)

        return call

    spoiled("receive_message", growing)
    survey = dead.survey()
    more.set()
    # When the surveyed letters are deleted, then only they are, and the purge ends.
    assert dead.purge(dead.Filter(stage="upload"), until=survey.newest) == 1
    more.clear()
    assert counts("upload_dlq")[0] >= 1
    assert counts("upload_dlq")[1] == 0


def test_a_letter_that_sqs_delivers_twice_counts_once(dead, spoiled):
    put(*(letter_of(job_at(f"http://h/{n}"), UPLOAD) for n in range(3)))

    def twice(receive):
        last: list = []

        def call(**request):
            answer = receive(**request)
            messages = answer.get("Messages", [])
            answer["Messages"] = messages + [message for message in last if message not in messages]
            last[:] = messages
            return answer

        return call

    spoiled("receive_message", twice)
    assert len(dead.browse()) == 3
    counted = dead.redrive(rate=1000)
    assert counted.sent == {("upload", "s3_error"): 3}
    assert counts("upload") == (3, 0)
    assert counts("upload_dlq") == (0, 0)


def test_an_interrupted_browse_releases_everything(dead, monkeypatch):
    put(*(letter_of(job_at(f"http://h/{n}"), UPLOAD) for n in range(25)))
    started = threading.Event()

    def interrupt(futures, **_):  # as Ctrl-C does, in the waiting thread
        started.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.ops.dead_letters.reader.wait_for_all", interrupt)
    read = dead.read_letter
    monkeypatch.setattr(dead, "read_letter", lambda *args: started.set() or read(*args))
    with pytest.raises(KeyboardInterrupt):
        dead.browse()
    assert counts("upload_dlq") == (25, 0)


def test_an_error_while_browsing_releases_everything(dead, spoiled, monkeypatch):
    monkeypatch.setattr("pipeline.ops.dead_letters.reader.PAUSES", (0,))
    put(*(letter_of(job_at(f"http://h/{n}"), UPLOAD) for n in range(25)))

    def failing(receive):
        answers = [None, None]

        def call(**request):
            if "upload" in request["QueueUrl"] and not answers:
                raise EndpointConnectionError(endpoint_url="x")
            answers.pop() if "upload" in request["QueueUrl"] else None
            return receive(**request)

        return call

    spoiled("receive_message", failing)
    with pytest.raises(RetryableError, match="read the queue"):
        dead.browse()
    assert counts("upload_dlq") == (25, 0)


def test_a_namespace_without_queues_is_named(dead, monkeypatch):
    monkeypatch.setenv("QUEUE_NAMESPACE", "nobody")
    lazy.forget()
    with pytest.raises(SettingsError, match=r"QUEUE_NAMESPACE='nobody': the queue nobody_ingest_dlq does not exist"):
        dead.browse()
