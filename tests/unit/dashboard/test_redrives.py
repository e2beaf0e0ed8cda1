"""Redrives that the dashboard runs."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pipeline.dashboard.redrives import Redrive, Redrives
from pipeline.errors import RetryableError
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("no_variables")


def test_one_redrive_runs_at_a_time_and_its_error_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a redrive that waits for the dead letters, which somebody else reads
    lock, ended = threading.Lock(), threading.Event()
    redrives = Redrives(lock, ended.set)

    def refused(*_: Any, **__: Any) -> None:
        raise RetryableError("sqs_error", "SQS said no.")

    monkeypatch.setattr("pipeline.dashboard.redrives.redrive", refused)
    with lock:
        assert redrives.start(Redrive("fetch", "http_404", total=3))
        # Then a second one does not start
        assert not redrives.start(Redrive("fetch", "timeout", total=1))
        assert redrives.shown
        assert redrives.shown.title == "Redriving http_404 in fetch …"
    # and the error is shown
    wait_for(ended.is_set)
    assert redrives.shown
    assert not redrives.busy
    assert redrives.shown.text == "0 dead letters sent. SQS said no."
    with pytest.raises(ValueError, match="not a stage"):
        redrives.start(Redrive("nowhere", "x"))
