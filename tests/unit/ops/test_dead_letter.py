"""The fields of a dead letter with a job, and the letters that a filter accepts."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.clients import lazy
from pipeline.errors import RetryableError
from pipeline.ops.dead_letters.dead_letter import DeadLetter, Filter, payload_of, read_letter, to_send
from pipeline.sqs.queues import MAX_RECEIVES
from pipeline.stages import NOTIFY, UPLOAD, Stage
from tests.support.dead import Letter, job_at, letter_of, received, sweep_job

SENT = 1_795_000_000
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PAYLOAD = {"image_url": "http://u:p@feeds.example:8080/cover.jpg?token=t", "bucket_name": "Show"}


@pytest.fixture(autouse=True)
def _settings(no_variables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_URL", "http://127.0.0.1/1234/in")
    lazy.forget()


def read(letter: Letter, **values: str) -> DeadLetter:
    queue, entry = letter
    return read_letter(received(entry.body, **dict(entry.attributes) | values), queue, lambda key: f"staged {key}")


def letter(stage: Stage = UPLOAD, **more: Any) -> DeadLetter:
    times = {"first_at": "2026-11-24T10:00:00+00:00", "last_at": "2026-11-24T11:00:00"}
    job = job_at("http://u:p@feeds.example:8080/cover.jpg?token=t", **more)
    return read(letter_of(job, stage), **times)


def test_a_letter_shows_all_its_facts_and_no_secret() -> None:
    assert letter().as_dict() == {
        "id": "id-1",
        "queue": "upload_dlq",
        "stage": "upload",
        "code": "s3_error",
        "message": "It failed with s3_error.",
        "attempts": 9,
        "first_at": "2026-11-24T10:00:00+00:00",
        "last_at": "2026-11-24T11:00:00+00:00",
        "kept_until": "2026-12-02T11:06:40+00:00",
        "target": "upload",
        "obstacle": "",
        "job_id": "5f43a1e2-0000",
        "report_id": "5f43a1e2-0000.r1",
        "folder": "SHOW",
        "lane": "live",
        "urls": ["feeds.example:8080/cover.jpg"],
        "hosts": ["feeds.example"],
    } | {"urls": ("feeds.example:8080/cover.jpg",), "hosts": ("feeds.example",)}


def test_a_letter_of_notify_shows_the_receivers_host() -> None:
    assert letter(NOTIFY).hosts == ("feeds.example", "hooks.example")
    assert letter(NOTIFY, itunes_image="http://feeds.example/other").hosts == ("feeds.example", "hooks.example")
    assert letter(NOTIFY, postback_url=None, redirect_queue="q").hosts == ("feeds.example",)
    assert letter(itunes_image="http://[broken/").hosts == ("feeds.example",)


def test_a_letter_moved_by_sqs_has_no_reason_but_the_time_it_was_sent() -> None:
    moved = read(letter_of(job_at(), UPLOAD, with_reason=False))
    assert (moved.code, moved.attempts, moved.report_id) == ("no_reason", 0, "5f43a1e2-0000")
    assert moved.first_at == moved.last_at == datetime.fromtimestamp(SENT, UTC)
    assert moved.message.startswith(f"SQS moved it here after {MAX_RECEIVES} receives")


def test_a_staged_body_is_read_from_staging() -> None:
    queue, entry = letter_of(job_at(), UPLOAD)
    message = received("too large", staging_key="0" * 32)
    asked: list[str] = []

    def body_of(key: str) -> str:
        asked.append(key)
        return entry.body

    found = read_letter(message, queue, body_of)
    assert (found.job_id, found.body, asked) == ("5f43a1e2-0000", entry.body, ["0" * 32])

    def gone(_: str) -> str:
        raise RetryableError("staging_error", "The folder is away.")

    found = read_letter(message, queue, gone)
    assert (found.job, found.body) == (None, "too large")
    assert "cannot be read: The folder is away." in found.obstacle


def test_a_sweeps_job_is_left_unless_only_its_write_back_failed_or_is_missing() -> None:
    assert "sweep retry episodes" in read(letter_of(sweep_job(), UPLOAD)).obstacle
    assert not read(letter_of(sweep_job(), NOTIFY)).obstacle
    assert not read(letter_of(sweep_job(), UPLOAD, with_reason=False)).obstacle
    assert read(letter_of(sweep_job(), UPLOAD)).lane == "bulk"


@pytest.mark.parametrize(
    ("url", "body", "target", "obstacle"),
    [
        ("http://sqs/1/in.fifo", {**PAYLOAD, "redirect_queue": "q"}, "in.fifo", ""),
        ("", {**PAYLOAD, "redirect_queue": "q"}, "", "QUEUE_URL, which it came from, is not set."),
        ("http://sqs/1/in", PAYLOAD, "in", "It would be rejected again: The message has no destination"),
        ("http://sqs/1/in", None, "in", "It would be rejected again: It is not valid JSON."),
    ],
)
def test_input_is_redriven_unless_it_would_be_refused_again(
    monkeypatch: pytest.MonkeyPatch, url: str, body: object, target: str, obstacle: str
) -> None:
    monkeypatch.setenv("QUEUE_URL", url)
    lazy.forget()
    found = read_letter(received(json.dumps(body) if body else "{"), "ingest_dlq", lambda _: "")
    assert (found.stage, found.target) == ("ingest", target)
    assert found.obstacle.startswith(obstacle)
    assert bool(found.obstacle) == bool(obstacle)


def test_a_redriven_message_has_no_attempts() -> None:
    message = to_send(letter())
    assert (message.queue_name, message.options["attempts"]) == ("upload", {})
    assert message.options["other"] == 1


def test_a_payload_is_found_in_every_place() -> None:
    found = letter()
    assert json.loads(payload_of(found, lambda _: "")) == {
        "image_url": "http://feeds.example:8080/cover.jpg?…",
        "bucket_name": "Show",
        "postback_url": "http://hooks.example/in?…",
    }
    staged = replace(found, job=replace(job_at(), payload=None, payload_key="1" * 32))
    assert json.loads(payload_of(staged, lambda key: f'{{"key": "{key}"}}')) == {"key": "1" * 32}
    assert payload_of(replace(found, job=None, body="plain"), lambda _: "") == "plain"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), True),
        (Filter(stage="upload"), True),
        (Filter(stage="fetch"), False),
        (Filter(code="s3_error"), True),
        (Filter(code="http_404"), False),
        (Filter(host="feeds.example"), True),
        (Filter(host="EXAMPLE."), True),
        (Filter(host="feeds"), False),
        (Filter(host="eeds.example"), False),
        (Filter(failed_before=NOW - timedelta(minutes=59)), True),
        (Filter(failed_before=NOW - timedelta(hours=1)), False),
        (Filter(job="5f43a1e2-0000"), True),
        (Filter(job="5f43a1e2"), False),
        (Filter(ids=("id-1",)), True),
        (Filter(ids=("id-2", "5f43")), True),
        (Filter(ids=("id-2",)), False),
        (Filter(stage="upload", code="http_404"), False),
    ],
)
def test_a_filter_matches_letters_that_meet_all_conditions(wanted: Filter, expected: bool) -> None:
    assert wanted.matches(letter()) is expected


def test_a_filter_reads_the_queues_of_its_stage() -> None:
    assert Filter(stage="fetch").queues == ["fetch_dlq"]
    assert {"ingest_dlq", "fetch_dlq", "notify_dlq", "sweep_channels_dlq"} < set(Filter().queues)
    with pytest.raises(ValueError, match="'x' is not a stage"):
        Filter(stage="x")
    with pytest.raises(ValueError, match="'abc' is too short"):
        Filter(ids=("abcd", "abc"))
