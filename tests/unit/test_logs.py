"""The log in its two forms, in processes of ours and of dramatiq's and periodiq's."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.events import Event, Verdict
from pipeline.logs import JsonFormatter, log_event
from pipeline.settings import Settings

ROOT = Path(__file__).parents[2]
FAILED = Event("fetch", "a-job", Verdict.RETRY, seconds=0.1234, attempt=2, code="timeout", message="No.", wait=2.04)


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    ours = {name.upper() for name in (*Settings.model_fields, "environment")}
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    return subprocess.run(
        [sys.executable, *command],
        check=False,
        env=environ | {"PATH": path} | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def record(caplog) -> logging.LogRecord:
    caplog.set_level(logging.INFO)
    log_event(FAILED)
    return caplog.records[0]


def test_the_text_says_all_in_one_line(record) -> None:
    assert record.getMessage() == "stage=fetch job=a-job outcome=retry seconds=0.123 in 2.0 s timeout: No."


def test_json_says_it_by_fields_too(record) -> None:
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


def test_a_traceback_and_strange_text_stay_in_one_line_of_json() -> None:
    try:
        raise ValueError("two\nlines \ud800")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "a\nb \ud800 %s", ("c",), sys.exc_info())
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert text.encode("ascii")
    assert "ValueError" in json.loads(text)["exception"]


@pytest.mark.parametrize("arguments", [["dramatiq", "no.such.module"], ["periodiq", "no.such.module"]])
def test_every_line_of_dramatiq_and_periodiq_is_json(arguments: list[str]) -> None:
    # when a program starts that must fail, and says so with a traceback
    said = run("-m", "pipeline.logged", *arguments, LOG_FORMAT="json").stderr
    # then each of its lines is an object
    lines = [json.loads(line) for line in said.splitlines()]
    assert any(line["level"] in {"ERROR", "CRITICAL"} for line in lines)
    assert any("No module named 'no'" in line.get("exception", "") for line in lines)


def test_text_is_dramatiqs_own() -> None:
    said = run("-m", "pipeline.logged", "dramatiq", "no.such.module").stderr
    assert "[dramatiq.MainProcess] [INFO] Dramatiq" in said


def test_a_wrong_value_or_command_is_one_sentence() -> None:
    wrong = run("-m", "pipeline.logged", "dramatiq", "pipeline.actors", LOG_FORMAT="xml")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: LOG_FORMAT='xml': ")
    assert run("-m", "pipeline.logged", "dramatic").stderr == "error: dramatic is no command that is installed here.\n"
    assert run("-m", "pipeline.logged").stderr.startswith("usage:")
