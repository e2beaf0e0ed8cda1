"""Both log formats, in our processes and in dramatiq's and periodiq's."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from pipeline.events import Event, Outcome
from pipeline.monitoring.logs import JsonFormatter, log_event

ROOT = Path(__file__).parents[3]
FAILED = Event("fetch", "a-job", Outcome.RETRY, seconds=0.1234, attempt=2, code="timeout", message="No.", wait=2.04)


@pytest.fixture
def record(caplog) -> logging.LogRecord:
    caplog.set_level(logging.INFO)
    log_event(FAILED)
    return caplog.records[0]


def test_the_text_format_has_everything_in_one_line(record) -> None:
    assert record.getMessage() == "stage=fetch job=a-job outcome=retry seconds=0.123 in 2.0 s timeout: No."


def test_the_json_format_has_fields_as_well(record) -> None:
    line = json.loads(JsonFormatter().format(record))
    assert {name: line[name] for name in ("stage", "job", "outcome", "seconds", "attempt", "code", "wait")} == {
        "stage": "fetch",
        "job": "a-job",
        "outcome": "retry",
        "seconds": 0.123,
        "attempt": 2,
        "code": "timeout",
        "wait": 2.0,
    }
    assert line["message"] == record.getMessage()
    assert (line["level"], line["logger"]) == ("INFO", "pipeline.stage")


def test_a_traceback_and_unusual_text_stay_in_one_line_of_json() -> None:
    try:
        raise ValueError("two\nlines \ud800")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "a\nb \ud800 %s", ("c",), sys.exc_info())
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert text.encode("ascii")
    assert "ValueError" in json.loads(text)["exception"]
