"""Browsing dead letters leaves them as they are, on the embedded SQS."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import EndpointConnectionError

from pipeline.clients import aws, lazy
from pipeline.errors import RetryableError, SettingsError
from pipeline.stages import FETCH, NOTIFY, UPLOAD
from tests.support.dead import counts, job_at, letter_of, put

STAGED = "3" * 32


def test_a_letter_shows_how_its_job_failed(dead):
    put(letter_of(job_at(itunes_image="http://cdn.example/i.png"), UPLOAD, age=3600))

    (letter,) = dead.browse()

    assert (letter.queue, letter.stage, letter.code, letter.attempts) == ("upload_dlq", "upload", "s3_error", 9)
    assert letter.message == "It failed with s3_error."
    assert letter.last_at - letter.first_at == timedelta(seconds=60)
    assert (letter.job_id, letter.report_id, letter.folder) == ("5f43a1e2-0000", "5f43a1e2-0000.r1", "SHOW")
    assert (letter.target, letter.lane, letter.obstacle) == ("upload", "live", "")
    assert letter.urls == ("example.org/cover.jpg", "cdn.example/i.png")
    assert letter.hosts == ("example.org", "cdn.example")
    assert timedelta(days=13) < letter.kept_until - letter.last_at < timedelta(days=15)


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


def test_letters_are_found_by_stage_code_host_age_and_ids(dead):
    put(
        letter_of(job_at("http://one.example/a"), UPLOAD),
        letter_of(job_at("http://img.two.example/a"), UPLOAD, age=8 * 86400),
        letter_of(job_at("http://one.example/b"), NOTIFY, "http_500"),
    )

    def found(**by):
        return sorted((letter.stage, *letter.urls) for letter in dead.browse(dead.Filter(**by)))

    one, two, notified = (
        ("upload", "one.example/a"),
        ("upload", "img.two.example/a"),
        ("notify", "one.example/b"),
    )
    assert found() == sorted([one, two, notified])
    assert found(stage="upload") == sorted([one, two])
    assert found(code="http_500") == [notified]
    assert found(host="one.example") == sorted([one, notified])
    assert found(host="two.EXAMPLE") == [two]
    assert found(host="hooks.example") == [notified]
    assert found(failed_before=datetime.now(UTC) - timedelta(days=7)) == [two]
    assert found(stage="notify", host="two.example") == []
    (letter,) = dead.browse(dead.Filter(stage="notify"))
    assert found(ids=(letter.id[:8],)) == [notified]
    assert len(found(ids=(letter.job_id,))) == 3
    assert found(job="5f43a1e2-0000", stage="notify") == [notified]
    assert found(job="5f43a1e2") == []
    with pytest.raises(ValueError, match="'' is too short"):
        dead.Filter(ids=("",))
    with pytest.raises(ValueError, match="'uplaod' is not a stage: write one of ingest, fetch"):
        dead.Filter(stage="uplaod")


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


def test_letters_leased_by_another_reader_are_counted(dead, broker):
    put(*(letter_of(job_at(f"http://h/{n}"), UPLOAD) for n in range(3)))
    aws.sqs().receive_message(QueueUrl=broker.queues.url("upload_dlq"), VisibilityTimeout=30)
    survey = dead.survey()
    assert (survey.total, survey.hidden) == (2, 1)


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


def test_letters_that_cannot_be_released_are_logged_and_reappear_later(dead, spoiled, monkeypatch, caplog):
    monkeypatch.setattr("pipeline.ops.dead_letters.reader.PAUSES", (0,))
    put(*(letter_of(job_at(f"http://h/{n}"), UPLOAD) for n in range(25)))

    def failing(_):
        def call(**_):
            raise EndpointConnectionError(endpoint_url="x")

        return call

    spoiled("change_message_visibility_batch", failing)
    assert len(dead.browse()) == 25
    assert "stay hidden for up to 60 s." in caplog.text
    assert counts("upload_dlq") == (0, 25)


def test_a_namespace_without_queues_is_named(dead, monkeypatch):
    monkeypatch.setenv("QUEUE_NAMESPACE", "nobody")
    lazy.forget()
    with pytest.raises(SettingsError, match=r"QUEUE_NAMESPACE='nobody': the queue nobody_ingest_dlq does not exist"):
        dead.browse()
