"""The pages of sweeps."""

from __future__ import annotations

import json
from typing import Any

from pipeline.clients import aws
from pipeline.sweeps import run_state
from pipeline.sweeps.documents import CHANNELS
from tests.support.dashboard import serving
from tests.support.shown import HOSTILE, queue_url, wait_for_text


def test_a_sweep_is_previewed_started_and_stopped(with_everything: Any) -> None:
    # Given changed documents, and one with an error mark
    detail = {"code": "http_404", "message": "It answered 404.", "field": "image_url", "stage": "fetch"}
    with_everything.channels.insert_many(
        [{"_id": n, "title": HOSTILE[0], "image_url": f"http://h:81/{n}.jpg?token=hush"} for n in range(3)]
        + [
            {
                "_id": 9,
                "title": "Marked",
                "image_url": "http://h/9",
                "metadata": {"error": True, "error_detail": detail},
            }
        ]
    )

    with serving() as site:
        # When a visitor looks first, then the page shows what a run would take, and starts nothing
        shown = site.text("/sweeps/preview/channels")
        assert "3 channels would be swept" in shown
        assert "image_url: h:81/0.jpg" in shown
        assert "hush" not in site.get("/sweeps/preview/channels").text
        assert HOSTILE[0] in shown
        assert "Nothing to sweep." in site.text("/sweeps/preview/episodes")
        assert run_state.latest(CHANNELS, 1) == []
        # and the marked documents with their reasons
        assert "Marked http_404 It answered 404." in site.text("/sweeps/marks/channels")
        # When the visitor starts it, then its message is on the queue
        answer = site.post("/sweeps/start", {"collection": "channels"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/sweeps")
        (run,) = run_state.latest(CHANNELS, 1)
        received = aws.sqs().receive_message(QueueUrl=queue_url("sweep_channels"), WaitTimeSeconds=5)
        assert json.loads(received["Messages"][0]["Body"])["kwargs"]["run"] == run.id
        wait_for_text(site, "/sweeps", run.id, "under way", "Next runs")
        # and when the visitor stops it, then it takes no documents
        assert site.post("/sweeps/stop", {"run": run.id}).status_code == 303
        wait_for_text(site, "/sweeps", run.id, "stopped")
        assert site.post("/sweeps/start", {"collection": "users"}).status_code == 404
        assert site.get("/sweeps/preview/users").status_code == 404
