"""Live jobs whose sources are known: answered by conditional requests, without a download."""

from __future__ import annotations

import json

import pipeline.actors  # builds the broker, on which the actors are declared
from pipeline.clients import aws, lazy
from pipeline.settings import get_settings
from pipeline.sweeps import recheck, sources
from tests.support.rechecked import EXTRA, by_id, episodes, rechecked, swept
from tests.support.waiting import wait_for

# Live jobs.


def live(database, url, folder="Show 1"):
    """Send a live job; returns its result."""
    queue = f"{get_settings().queue_namespace}_results"
    queue_url = aws.sqs().create_queue(QueueName=queue)["QueueUrl"]
    payload = {"image_url": url, "bucket_name": folder, "redirect_queue": queue}
    pipeline.actors.fetch_image.send(payload)
    return json.loads(wait_for(lambda: _received(queue_url)))


def _received(queue_url):
    messages = aws.sqs().receive_message(QueueUrl=queue_url).get("Messages", [])
    for each in messages:
        aws.sqs().delete_message(QueueUrl=queue_url, ReceiptHandle=each["ReceiptHandle"])
    return messages[0]["Body"] if messages else None


def test_a_live_job_for_a_known_source_is_answered_without_a_download(database, host, attempts):
    (url,) = host.add(1)
    episodes(database, [url])
    (episode,) = swept(database).values()
    wait_for(lambda: attempts["notify"])  # the event follows the write-back
    host.asked.clear()
    attempts.clear()
    sent = host.sent

    result = live(database, url)

    assert result["image_url_info"] == episode[EXTRA]
    assert (host.statuses(), host.sent) == ([304], sent)
    assert attempts == {"fetch": 1, "notify": 1}


def test_the_details_of_a_live_job_are_the_same_without_a_download(database, host, monkeypatch):
    # Given a host whose Content-Type is wrong, and a receiver that wants details
    monkeypatch.setenv("RESULT_DETAILS", "on")
    lazy.forget()
    host.headers = lambda _, number: {"ETag": f'"{number}"', "Content-Type": "image/jpeg"}
    (url,) = host.add(1)
    downloaded = live(database, url)
    episodes(database, [url])
    swept(database)
    host.asked.clear()
    # Then a job that is answered 304 reports the same.
    assert live(database, url) == downloaded
    assert host.statuses() == [304]
    assert "wrong_content_type" in downloaded["image_url_source"]["warnings"]


def test_a_live_job_downloads_what_has_changed_and_leaves_the_documents_to_the_sweeps(database, host):
    (url,) = host.add(1)
    episodes(database, [url])
    before = swept(database)
    host.pictures["/1"] = 2

    changed = live(database, url)["image_url_info"]

    assert recheck.content_id_of(changed) not in {"", recheck.content_id_of(next(iter(before.values()))[EXTRA])}
    assert by_id(database) == before
    assert rechecked() == {"changed": 1, "documents": 1}
    assert next(iter(by_id(database).values()))[EXTRA] == changed


def test_a_live_job_in_another_folder_or_by_another_recipe_downloads_in_full(database, host, monkeypatch):
    (url,) = host.add(1)
    episodes(database, [url])
    swept(database)
    host.asked.clear()
    live(database, url, folder="Other")
    monkeypatch.setenv("RENDITIONS", "3x3")
    lazy.forget()
    assert set(live(database, url)["image_url_info"]) == {"3x3"}
    assert host.statuses() == [200, 200]


def test_a_live_job_does_not_wait_for_a_mongodb_that_is_down(database, host, monkeypatch):
    (url,) = host.add(1)
    monkeypatch.setenv("MONGO_URL", "mongodb://127.0.0.1:1/none")
    monkeypatch.setattr(sources, "FIND_TIMEOUT", 0.1)
    lazy.forget()
    assert live(database, url)["image_url_info"]
