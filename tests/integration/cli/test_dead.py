"""The commands `image-pipeline dead ...` on a real SQS endpoint."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.output import terminal
from pipeline.clients import aws, lazy
from pipeline.job_ids import input_job_id
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from pipeline.stages import DEAD_LETTER_QUEUES, FETCH, NOTIFY, UPLOAD
from tests.integration.monitoring.job_log.test_reader import COVER, begin, good_history, job, write
from tests.support.dead import counts, job_at, letter_of, put, refused, sweep_job, taken
from tests.support.waiting import wait_for


@pytest.fixture
def dead(environment, monkeypatch):
    """Runs `image-pipeline dead` with these arguments, in a terminal if it gets an answer; returns its output."""
    from pipeline.actors import broker

    monkeypatch.setattr(broker.queues, "namespace", get_settings().queue_namespace)
    monkeypatch.setattr(terminal.console, "_width", 200)
    for queue in DEAD_LETTER_QUEUES.values():
        broker.queues.url(queue)

    def run(*arguments, status=0, answer=None):
        if answer is not None:
            monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
        result = CliRunner().invoke(app, ["dead", *arguments], input=answer)
        assert result.exit_code == status, result.output
        return result.output

    return run


def letters():
    """Letters of forty failed uploads, a missing source, a receiver that is down, and an input that is not JSON."""
    put(*(letter_of(job_at(f"http://one.example/{n}.jpg?token=t", n=n), UPLOAD, age=3 * 3600 + n) for n in range(40)))
    put(
        letter_of(job_at("http://two.example/[red]x"), FETCH, "http_404", age=90),
        letter_of(job_at("http://two.example/y"), NOTIFY, "http_500", age=8 * 86400),
        refused("{nope", "not_json"),
    )


def test_a_list_counts_by_stage_and_code_and_shows_the_latest(dead):
    letters()

    shown = dead("list", "--limit", "5")

    rows = [line.split() for line in shown.splitlines()]
    assert rows[1][:3] == ["ingest", "not_json", "1"]
    assert [row[:3] for row in rows[2:5]] == [
        ["fetch", "http_404", "1"],
        ["upload", "s3_error", "40"],
        ["notify", "http_500", "1"],
    ]
    assert "It failed with s3_error." in shown
    (latest,) = [row for row in rows if "fetch" in row and re.fullmatch(r"2 min|9\d s", " ".join(row[3:5]))]
    assert latest[6] == "two.example/[red]x"
    assert re.fullmatch("[0-9a-f]{8}", latest[0])
    assert [row[3:5] for row in rows if row[1:3] == ["upload", "s3_error"]] == [["3", "h"]] * 3
    assert "The latest 5 of 43: --limit shows more." in shown
    assert "token" not in shown
    assert counts("upload_dlq") == (40, 0)


def test_a_list_takes_filters_and_prints_json_lines(dead):
    letters()
    assert "No dead letter matches." in dead("list", "--stage", "resize")
    (line,) = dead("list", "--host", "two.example", "--older-than", "7d", "--json").splitlines()
    assert json.loads(line).items() >= {"stage": "notify", "code": "http_500", "attempts": 9}.items()
    assert len(dead("list", "--code", "s3_error", "--json").splitlines()) == 40
    assert "'up' is not a stage: write one of ingest, fetch" in dead("list", "--stage", "up", status=2)
    assert "'7' is not an age" in dead("list", "--older-than", "7", status=2)


def test_a_letter_is_found_by_the_beginning_of_its_id_and_shown_whole(dead):
    letters()
    (line,) = dead("list", "--code", "http_500", "--json").splitlines()
    letter = json.loads(line)

    shown = dead("show", letter["id"][:8])

    assert f"{letter['id']} in notify_dlq" in shown
    for text in (
        "http_500: It failed with http_500.",
        "5f43a1e2-0000, folder SHOW, live lane",
        "two.example/y (due in upload)",
        "5f43a1e2-0000.r1",
        "sends it to notify",
    ):
        assert text in shown
    assert "hooks.example" not in shown
    assert json.loads(dead("show", letter["id"], "--json")) == letter
    shown = dead("show", letter["id"], "--payload")
    assert '"postback_url": "http://hooks.example/in?…"' in shown
    assert "key=k" not in shown


def test_a_letter_is_found_by_the_message_id_of_its_input(dead):
    # given two failed jobs from the input queue
    start = job_at("http://one.example/1.jpg")
    put(*(letter_of(replace(start, id=input_job_id(f"message-{n}")), FETCH, "http_404") for n in range(2)))
    # when one is shown by its MessageId, then it is that job
    assert input_job_id("message-1") in dead("show", "message-1")


def test_an_ambiguous_or_unknown_id_is_reported(dead):
    letters()
    assert "42 dead letters match this id: choose one of them." in dead("show", "5f43a1e2", status=1)
    assert "No dead letter has an id, or a job id, that begins with 'abcdefgh'." in dead("show", "abcdefgh", status=1)
    assert "'abc' is too short: write at least 4 characters" in dead("show", "abc", status=2)


def test_a_redrive_shows_its_plan_and_asks_before_it_sends(dead):
    letters()
    put(letter_of(sweep_job(), UPLOAD))

    shown = dead("redrive", "--stage", "upload", "--rate", "1000")
    assert re.search(r"upload +s3_error +40 +It failed", shown)
    assert re.search(
        r"upload +s3_error +1 +A redrive leaves them\. It is a job of a sweep\. .*`image-pipeline sweep retry", shown
    )
    assert "Nothing was changed: --yes sends them." in shown
    assert counts("upload_dlq") == (41, 0)
    assert counts("upload") == (0, 0)

    shown = dead("redrive", "--stage", "upload", "--rate", "1000", answer="n\n")
    assert "Redrive 40 dead letters, at most 1000 per second? [y/N]" in shown
    assert "Nothing was changed." in shown
    assert counts("upload_dlq") == (41, 0)

    assert "Redrove 10 dead letters in" in dead(
        "redrive", "--stage", "upload", "--rate", "1000", "--limit", "10", answer="y\n"
    )
    assert "Redrove 30 dead letters in" in dead("redrive", "--stage", "upload", "--rate", "1000", "--yes")
    assert counts("upload_dlq") == (1, 0)
    assert len({message["kwargs"]["job"]["payload"]["n"] for message in taken("upload")}) >= 30
    assert "None of them can be redriven." in dead("redrive", "--stage", "upload", "--yes", status=1)
    assert "No dead letter matches." in dead("redrive", "--stage", "resize", "--yes", status=1)


def test_a_redrive_that_sqs_refuses_reports_that_and_fails(dead, monkeypatch):
    put(letter_of(job_at(), UPLOAD))
    from pipeline.actors import broker

    monkeypatch.setattr(broker, "enqueue_many", lambda messages: [RuntimeError("SQS said no.") for _ in messages])
    shown = dead("redrive", "--yes", status=1)
    assert "Redrove 0 dead letters" in shown
    assert "1 could not be sent and remain: SQS said no." in shown
    assert counts("upload_dlq") == (1, 0)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_redrive_reports_its_progress_and_releases_the_rest(dead, signum):
    # Given a long redrive whose filter matches half of the letters
    put(*(letter_of(job_at(), UPLOAD, "s3_error" if n < 300 else "bad_job") for n in range(600)))
    command = [sys.executable, "-m", "pipeline", "dead", "redrive", "--code", "s3_error", "--rate", "20", "--yes"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    # When it is interrupted
    wait_for(lambda: counts("upload")[0] >= 20)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=30)
    # Then each letter was either sent and deleted, or is visible again.
    assert process.returncode != 0
    sent, hidden = counts("upload")
    assert hidden == 0
    assert 20 <= sent < 300
    assert f"Redrove {sent} dead letters" in output
    assert counts("upload_dlq") == (600 - sent, 0)


def test_a_purge_asks_and_deletes_only_matching_letters(dead):
    letters()
    assert "Nothing was changed: --yes deletes them." in dead("purge")
    assert "Delete 43 dead letters permanently? [y/N]" in dead("purge", answer="n\n")
    assert "Deleted 1 dead letter." in dead("purge", "--stage", "ingest", "--yes")
    (line,) = dead("list", "--code", "http_404", "--json").splitlines()
    assert "Deleted 1 dead letter." in dead("purge", json.loads(line)["id"][:8], answer="y\n")
    assert "Deleted 41 dead letters." in dead("purge", "--yes")
    assert "No dead letters were found." in dead("list")


def test_letters_leased_by_another_reader_are_reported(dead):
    letters()
    from pipeline.actors import broker

    aws.sqs().receive_message(QueueUrl=broker.queues.url("upload_dlq"), MaxNumberOfMessages=10, VisibilityTimeout=60)
    assert "About 10 more are hidden" in dead("list")


def test_a_redrive_of_a_job_without_a_letter_names_its_state(database, monkeypatch):
    # given a job under way whose letter was redriven
    monkeypatch.setenv("JOBS_MONGO_URL", get_settings().mongo_url.get_secret_value())
    lazy.forget()
    for change in plan(get_settings()):
        change.apply()
    begin()
    write(*good_history(job(COVER, job_id="6fa459ea-1"))[:2])
    # when it is redriven again, then the command says that it is under way
    result = CliRunner().invoke(app, ["dead", "redrive", "6fa459ea"])
    assert result.exit_code == 1
    assert "No dead letter matches." in result.output
    assert "The job 6fa459ea-1 is under way in resize." in result.output
