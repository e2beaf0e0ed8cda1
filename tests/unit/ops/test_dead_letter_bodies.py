"""How a dead letter is shown: without secrets, without queries of URLs, and fast for any text."""

from __future__ import annotations

import json

import pytest

from pipeline.clients import lazy
from pipeline.ops.dead_letters.dead_letter import DeadLetter, read_letter, shown_payload
from tests.support.dead import received


@pytest.fixture(autouse=True)
def _settings(monkeypatch):
    monkeypatch.setenv("QUEUE_URL", "http://127.0.0.1/in")
    lazy.forget()
    yield
    lazy.forget()


def letter(body: str = "{}", queue: str = "upload_dlq", **values: str) -> DeadLetter:
    return read_letter(received(body, **values), queue, lambda key: f"staged {key}")


@pytest.mark.parametrize(
    "body",
    ["", "nothing", "[]", "{}", '{"queue_name": 5}', "[" * 5000, '{"queue_name": "upload", "options": null}', "\x00"],
)
@pytest.mark.parametrize("queue", ["upload_dlq", "ingest_dlq", "sweep_channels_dlq"])
def test_unreadable_bodies_are_letters_that_stay_in_place(queue, body):
    found = letter(body, queue, attempts="many", first_at="yesterday", last_at="2026-11-24T10:00:00")
    assert found.obstacle
    assert (found.attempts, found.job_id, found.urls, found.hosts) == (0, "", (), ())
    assert found.first_at.isoformat() == "2026-11-18T11:06:40+00:00"
    assert found.last_at.isoformat() == "2026-11-24T10:00:00+00:00"
    assert json.dumps(found.as_dict())


@pytest.mark.parametrize(
    ("queue_name", "actor"),
    [("resize", "upload_image"), ("upload", "resize_image"), ("x", "x"), ("sweep_x", "sweep_x")],
)
def test_letters_for_another_queue_or_actor_stay(queue_name, actor):
    body = {
        "queue_name": queue_name,
        "actor_name": actor,
        "args": [],
        "kwargs": {},
        "options": {},
        "message_id": "1",
        "message_timestamp": 1,
    }
    assert "names another queue or actor" in letter(json.dumps(body)).obstacle


def test_a_letter_with_a_number_that_json_does_not_have_stays():
    body = {"queue_name": "upload", "actor_name": "upload_image", "args": [], "options": {}, "message_id": "1"}
    payload = {"image_url": "http://h/a", "redirect_queue": "q", "x": float("nan")}
    found = letter(json.dumps(body | {"kwargs": {"payload": payload}, "message_timestamp": 1}))
    assert "No worker would accept it" in found.obstacle


def test_a_payload_is_shown_without_likely_secrets():
    shown = shown_payload(
        json.dumps(
            {
                "image_url": "https://user:pass@example.org:8443/a.jpg?X-Amz-Signature=abc#x",
                "postback_secret_key": "hush",
                "deep": [{"apiKey": "hush", "Authorization": "Bearer hush", "note": "see ftp://u:hush@h/x for more"}],
                "Passwort": "",
                "n": 1.5,
                "title": "Ü\u202e",
            }
        )
    )
    assert json.loads(shown) == {
        "image_url": "https://example.org:8443/a.jpg?…",
        "postback_secret_key": "…",
        "deep": [{"apiKey": "…", "Authorization": "…", "note": "see ftp://h/x for more"}],
        "Passwort": "",
        "n": 1.5,
        "title": "Ü?",
    }


def test_so_is_invalid_json():
    shown = shown_payload('{"image_url": "http://u:hush@h/a?t=hush", "my_secret" : "hu\\"sh", "token":hush, \x1b[31m')
    assert shown == '{"image_url": "http://h/a?…", "my_secret" : "…", "token":"…", ?[31m'


@pytest.mark.unmeasured
@pytest.mark.timeout(20)  # Quadratic time would take hours.
@pytest.mark.parametrize("text", ['"', "secret", '"secret', "a", '"token":"', "://", '"a":'])
def test_no_text_takes_long(text):
    assert shown_payload(text * 300_000)
