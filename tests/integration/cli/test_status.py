"""`image-pipeline status` on real servers: the table, a job's history, and both as JSON."""

from __future__ import annotations

import codecs
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.output import terminal
from pipeline.clients import aws, lazy, mongo
from pipeline.events import Outcome
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from pipeline.stages import FETCH
from tests.integration.monitoring.job_log.test_reader import (
    COVER,
    attempt,
    begin,
    failed_history,
    good_history,
    job,
    write,
)
from tests.support.waiting import wait_for


@pytest.fixture
def status(database, monkeypatch):
    """Runs `image-pipeline status` with the job log in this test's database; returns its output."""
    monkeypatch.setenv("JOBS_MONGO_URL", get_settings().mongo_url.get_secret_value())
    lazy.forget()
    begin()
    for change in plan(get_settings()):
        change.apply()
    for console in (terminal.console, terminal.error_console):
        monkeypatch.setattr(console, "_width", 200)

    def run(*arguments, status=0):
        result = CliRunner().invoke(app, ["status", *arguments])
        assert result.exit_code == status, (result.output, result.exception)
        return result.output

    return run


def send(queue, count=1):
    url = aws.sqs().get_queue_url(QueueName=get_settings().full_queue_name(queue))["QueueUrl"]
    for _ in range(count):
        aws.sqs().send_message(QueueUrl=url, MessageBody="{}")


def row(output, stage):
    return next(line for line in output.splitlines() if line.strip().startswith(f"{stage} ")).split()


def test_each_stage_is_a_row(status):
    # given messages in queues, a job under way, and a failed job
    send("fetch", 3)
    send("fetch_bulk", 2)
    send("upload_dlq")
    write(*good_history()[:2], *failed_history(job(COVER, job_id="bad")))
    send("resize")
    # when the table is printed
    output = status()
    # then each stage has its counts, rate and oldest job
    assert row(output, "fetch")[1:6] == ["3", "2", "0", "0", "0"]
    assert row(output, "upload")[1:6] == ["0", "0", "0", "0", "1"]
    assert float(row(output, "fetch")[6]) > 0
    assert row(output, "resize")[-1] in {"s", "min"}
    assert row(output, "sweep_channels")[-2:] == ["-", "-"]
    assert re.search(r"1x +fetch +http_404 .* ago: example.org/cover.png answered 404 Not Found\.", output)
    assert "• 1 dead letter of upload: see `image-pipeline dead list`." in output


def test_a_narrow_terminal_shows_count_stage_and_code(status, monkeypatch):
    # given a failure whose message is longer than a line
    write(*failed_history(job(COVER)))
    monkeypatch.setattr(terminal.console, "_width", 60)

    # when / then its stage and code are complete, and the message is wrapped
    assert re.search(r"^ *1x +fetch +http_404 +\S", status(), re.MULTILINE)


def test_without_a_job_log_its_columns_are_empty(status, monkeypatch):
    monkeypatch.setenv("JOBS_MONGO_URL", "")
    lazy.forget()
    output = status()
    assert row(output, "fetch")[-2:] == ["-", "-"]
    assert "set JOBS_MONGO_URL" in output
    assert "JOBS_MONGO_URL is not set" in str(CliRunner().invoke(app, ["status", "a-job"]).exception)


def test_a_job_log_that_is_down_hides_no_queue(status, monkeypatch):
    monkeypatch.setenv("JOBS_MONGO_URL", "mongodb://u:hush@127.0.0.1:1/none")
    monkeypatch.setattr(mongo, "SHORT_TIMEOUT", 0.2)
    lazy.forget()
    output = status()
    assert row(output, "fetch")[-2:] == ["-", "-"]
    assert "MongoDB does not answer. Live jobs go on without it." in output
    assert "hush" not in output


def test_messages_in_quarantine_are_reported(status):
    name = f"{get_settings().queue_namespace}_resize_quarantine"
    url = aws.sqs().get_queue_url(QueueName=name)["QueueUrl"]
    before = row(status(), "resize")
    for _ in range(2):
        aws.sqs().send_message(QueueUrl=url, MessageBody="{}")
    output = status()
    assert row(output, "resize") == before
    assert "resize: 2 messages in quarantine" in output


def test_missing_queues_and_indexes_are_reported(status):
    name = f"{get_settings().queue_namespace}_notify"
    aws.sqs().delete_queue(QueueUrl=aws.sqs().get_queue_url(QueueName=name)["QueueUrl"])
    mongo.job_database()["image_pipeline_jobs"].drop_indexes()
    output = status()
    assert f"Missing queues: 1 ({name})" in output
    assert "lacks indexes" in output


def test_a_jobs_history_is_found_by_the_beginning_of_its_id(status):
    start = job(COVER, job_id="6fa459ea-ee8a-5ca4-894e-db77e160355e")
    busy = [
        attempt(FETCH, Outcome.SNOOZED, n / 10, start, code="host_busy", message="Busy.", wait=1.0) for n in range(5)
    ]
    write(*busy, *good_history(start))

    output = status("6fa459ea")

    assert "6fa459ea-ee8a-5ca4-894e-db77e160355e  done" in output
    assert "folder THE_SHOW, live lane" in output
    assert re.search(r"^  50x50 +http://\S+/images-resized/THE_SHOW/c0ffee_50x50.png$", output, re.MULTILINE)
    outcomes = re.findall(r"^ \d\d:\d\d:\d\d +(\w+) +(put off x \d|retry|done) +([\d.]+ s)", output, re.MULTILINE)
    assert [(stage, outcome) for stage, outcome, _ in outcomes] == [
        ("fetch", "put off x 5"),
        ("fetch", "retry"),
        ("fetch", "done"),
        ("resize", "done"),
        ("upload", "done"),
        ("notify", "done"),
    ]
    assert "timeout: example.org did not answer in time. Again in 2.0 s." in output
    assert "attempt 2" in output
    assert "hush" not in output


def test_an_ambiguous_beginning_of_an_id_is_refused(status):
    write(*good_history(job(COVER, job_id="abc-1")), *good_history(job(COVER, job_id="abc-2")))
    output = status("abc", status=1)
    assert "More than one" in output
    assert "abc-2" in output
    assert "does not contain a job 'xyz'" in status("xyz", status=1)


def test_control_codes_in_an_id_do_not_reach_the_terminal(status):
    write(*good_history(job(COVER, job_id="evil\x1b[2J[red]x")))
    output = status("evil")
    assert "\x1b" not in output
    assert "evil?[2J[red]x" in output


def test_table_and_history_are_available_as_json(status):
    write(*failed_history(job(COVER)))
    send("fetch")
    found = json.loads(status("--json"))
    (fetch,) = [stage for stage in found["stages"] if stage["stage"] == "fetch"]
    assert (fetch["waiting"], fetch["oldest"]) == (1, None)
    assert found["failures"][0]["code"] == "http_404"
    history = json.loads(status("a-job", "--json"))
    assert (history["status"], history["turns"][0]["verdict"]) == ("failed", "given_up")
    assert datetime.fromisoformat(history["began"]).tzinfo


def test_watching_refreshes_and_ctrl_c_ends_it_with_status_0(status):
    # given a watching command in a terminal
    ours, theirs = pty.openpty()
    command = Path(sys.executable).parent / "image-pipeline"
    watching = subprocess.Popen(
        [command, "status", "--watch"],
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"COLUMNS": "100"},
        # Background jobs inherit an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    os.close(theirs)
    shown = ""
    # A read may end in the middle of a character.
    decoder = codecs.getincrementaldecoder("utf-8")()

    def shows(text):
        nonlocal shown
        shown += decoder.decode(os.read(ours, 65536))
        return re.search(text, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown))

    try:
        wait_for(lambda: shows(r"fetch +0 "), timeout=60)
        # when messages arrive, they are shown
        send("fetch", 7)
        wait_for(lambda: shows(r"fetch +7 "), timeout=60)
    finally:
        # and Ctrl-C ends it without a traceback
        watching.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 30
        while watching.poll() is None and time.monotonic() < deadline:
            try:
                shown += decoder.decode(os.read(ours, 65536))
            except OSError:  # the terminal has closed
                break
    assert watching.wait(30) == 0, shown[-2000:]
    assert "Traceback" not in shown
