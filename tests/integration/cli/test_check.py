"""`check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipeline.cli import check as check_commands
from pipeline.cli.app import app
from pipeline.clients import lazy
from pipeline.ops.checks import mongo
from tests.support.broken import closed_port, delete_queue
from tests.support.healthy import provision


def test_the_command_fails_with_a_hint(
    service: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(check_commands, "console", Console(width=300))
    healthy = CliRunner().invoke(app, ["check"])
    assert healthy.exit_code == 0, healthy.output
    assert f"{service['QUEUE_NAMESPACE']}_* (23)" in healthy.output.replace("\n", "")
    request.addfinalizer(provision)  # other tests use this set-up too
    delete_queue("resize_bulk")(service)
    delete_queue("fetch_bulk")(service)

    result = CliRunner().invoke(app, ["check"])

    assert result.exit_code == 1
    line = f"{service['QUEUE_NAMESPACE']}_fetch_bulk"
    assert line in result.output
    assert result.output.count("`image-pipeline provision` creates it.") == 1  # two queues, one line
    assert "2 failed" in result.output


def test_json_has_a_line_for_each_finding(service: dict[str, str]) -> None:
    result = CliRunner().invoke(app, ["check", "ingest", "--json"])
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert {row["status"] for row in rows} <= {"ok", "skip"}
    assert {"group", "check", "status", "subject", "says", "do"} == set(rows[0])
    assert {row["subject"] for row in rows} >= {"QUEUE_URL", f"{service['QUEUE_NAMESPACE']}_ingest_dlq", "staging"}


def test_no_secret_is_printed(service: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_KEY_S3", "hush-hush")
    monkeypatch.setenv("POSTBACK_SECRET_KEY", "hush-hush")
    monkeypatch.setenv("MONGO_URL", f"mongodb://me:hush-hush@{closed_port()}/images")
    monkeypatch.setattr(mongo, "TIMEOUT", 0.5)
    lazy.forget()
    result = CliRunner().invoke(app, ["check", "--json"])
    assert "MongoDB does not answer" in result.output
    assert "hush" not in result.output
