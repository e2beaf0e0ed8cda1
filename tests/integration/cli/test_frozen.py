"""With a MongoDB that is frozen, every command answers within seconds with what it has."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.clients import lazy
from pipeline.clients.mongo import NO_ANSWER
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from tests.support.dashboard import serving
from tests.support.frozen import frozen
from tests.support.waiting import wait_for

#: Seconds that an answer may take here, on a busy machine; MongoDB's own timeouts are longer.
PATIENCE = 4.5


@pytest.fixture
def with_frozen_mongo(environment, monkeypatch):
    """Provide queues, and a job log and a database that do not answer."""
    for change in plan(get_settings(), create_bucket=True):
        change.apply()
    with frozen() as port:
        for name in ("MONGO_URL", "JOBS_MONGO_URL"):
            monkeypatch.setenv(name, f"mongodb://u:hush@127.0.0.1:{port}/none")
        lazy.forget()
        yield
    lazy.forget()


@pytest.mark.parametrize(
    ("command", "status", "expected"),
    [
        (["status"], 0, NO_ANSWER),
        (["status", "6fa459ea"], None, NO_ANSWER),
        (["sweep", "channels", "--dry-run"], None, NO_ANSWER),
        (["sweep", "retry", "channels"], None, NO_ANSWER),
        (["sweep", "stop"], None, NO_ANSWER),
        (["check"], 1, "MongoDB does not answer"),
        (["provision"], None, NO_ANSWER),
        (["pause", "fetch"], None, NO_ANSWER),
        (["deliver", "6fa459ea"], None, NO_ANSWER),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, list) else "",
)
def test_a_command_answers(with_frozen_mongo, command, status, expected):
    before = time.monotonic()
    result = CliRunner().invoke(app, command)
    took = time.monotonic() - before
    assert expected in result.output + str(result.exception)
    assert "hush" not in result.output
    assert status in {None, result.exit_code}
    assert took < PATIENCE


def test_every_page_answers(with_frozen_mongo, caplog):
    with serving() as site:
        for path in ("/", "/jobs", "/jobs?q=x", "/jobs/6fa459ea", "/failures", "/workers", "/sweeps"):
            before = time.monotonic()
            answer = site.get(path)
            took = time.monotonic() - before
            assert answer.status_code in {200, 503}, path
            assert took < PATIENCE, path
        # and one banner is shown once the sources are known to fail, whatever was asked of MongoDB
        wait_for(lambda: site.text("/jobs").count("MongoDB does not answer") == 1)
        assert "Live jobs go on without it." in site.text("/jobs")
    assert "Traceback" not in caplog.text


def test_a_command_ends_without_waiting_for_the_threads_of_pymongo(with_frozen_mongo):
    command = [Path(sys.executable).parent / "image-pipeline", "status", "6fa459ea"]
    before = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert time.monotonic() - before < PATIENCE
    assert done.returncode == 2
    assert NO_ANSWER in done.stderr
