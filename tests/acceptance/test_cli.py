"""The command line, started as users start it."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import boto3
import pytest
import requests
from typer.main import get_command
from typer.testing import CliRunner

from pipeline.cli.app import LazyCommand, app
from pipeline.clients import lazy
from pipeline.local.embedded import REGION, EmbeddedStack
from pipeline.settings import Settings
from tests.support.waiting import wait_for


def image_pipeline(
    *arguments: str, environ: Mapping[str, str], stdin: str = "", timeout: float = 200
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(
        command, env=environ, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture
def environ(acceptance_stack: EmbeddedStack) -> dict[str, str]:
    """The environment of a process: its own queue names and bucket, of which only the bucket exists."""
    ours = {name.upper() for name in [*Settings.model_fields, "environment"]}
    unique = f"test-{secrets.token_hex(4)}"
    theirs = {name: value for name, value in os.environ.items() if name not in ours}
    environ = theirs | acceptance_stack.environ | {"QUEUE_NAMESPACE": unique, "S3_BUCKET": unique}
    client("s3", environ).create_bucket(Bucket=unique, CreateBucketConfiguration={"LocationConstraint": REGION})
    return environ


def client(service: Literal["s3", "sqs"], environ: Mapping[str, str]) -> Any:
    credentials = {"aws_access_key_id": "embedded", "aws_secret_access_key": "embedded"}
    return boto3.client(service, region_name=REGION, endpoint_url=environ["AWS_ENDPOINT_URL"], **credentials)


def queues(environ: Mapping[str, str], prefix: str = "") -> list[str]:
    """Return the names of this test's queues."""
    listed = client("sqs", environ).list_queues(QueueNamePrefix=environ["QUEUE_NAMESPACE"] + prefix)
    return [url.rpartition("/")[2] for url in listed.get("QueueUrls", [])]


def rules(environ: Mapping[str, str]) -> dict[str, int]:
    """Return the lifecycle rules of this test's bucket, with their days."""
    found = client("s3", environ).get_bucket_lifecycle_configuration(Bucket=environ["S3_BUCKET"])["Rules"]
    return {rule["ID"]: rule["Expiration"]["Days"] for rule in found}


def test_every_command_and_option_explains_itself() -> None:
    listed = get_command(app).commands  # type: ignore[attr-defined]
    commands = {name: each.load() if isinstance(each, LazyCommand) else each for name, each in listed.items()}
    assert set(commands) >= {"submit", "provision", "local", "demo", "ingest", "dashboard"}
    for name, command in commands.items():
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0
        assert command.help, name
        for option in command.params:
            assert getattr(option, "help", None) or option.name == "help", f"{name} {option.name}"


def test_submit_without_an_answer_gives_up_and_deletes_its_queue(environ: dict[str, str]) -> None:
    # Given no workers; When a job is submitted with --wait
    done = image_pipeline("submit", "http://example.org/a.png", "--wait", "--timeout", "1", environ=environ)
    # Then the command gives up
    assert done.returncode == 1
    assert "no result in time" in done.stdout
    assert not queues(environ, "_submit")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_submit_deletes_its_queue(environ: dict[str, str], signum: int) -> None:
    # Given a command that waits for a job
    submit = [sys.executable, "-m", "pipeline", "submit", "http://example.org/a.png", "--wait", "--json"]
    with subprocess.Popen(submit, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["status"] == "sent"
        assert queues(environ, "_submit")
        # When it receives the signal
        process.send_signal(signum)
        # Then it ends
        assert process.wait(60) == 130
    assert not queues(environ, "_submit")


def test_submit_prints_ids(environ: dict[str, str]) -> None:
    # When jobs are sent without --wait
    urls = ["http://example.org/a.png", "http://example.org/b.png"]
    done = image_pipeline("submit", *urls, "--redirect-queue", "results", environ=environ)
    # Then the output has a line for each
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^[0-9a-f-]{36}  (\S+)$", done.stdout, re.MULTILINE) == [
        "example.org/a.png",
        "example.org/b.png",
    ]


GOOD = '{"image_url": "http://example.org/a.png", "postback_url": "http://example.org/"}\n'


@pytest.mark.parametrize(
    ("arguments", "stdin", "complaint"),
    [
        ((), "", "nothing to submit"),
        (("http://example.org/a.png",), "", "example.org/a.png: The message has no destination"),
        (("http://example.org/a.png", "--wait", "--redirect-queue", "x"), "", "leave out --redirect-queue"),
        (("--file", "-"), GOOD + "{nonsense\n", "Line 2 of standard input is not JSON"),
        (("--file", "-"), GOOD + "\n[1]\n", "Line 3 of standard input is not a JSON object"),
        (("--file", "-"), GOOD + '{"image_url": 1}\n', "Line 2 of standard input: The field image_url is a number"),
        (
            ("--file", "-", "--wait"),
            '{"image_url": "a", "redirect_queue": "x"}',
            "Line 1 of standard input: its redirect",
        ),
    ],
)
def test_submit_sends_nothing_if_anything_is_wrong(
    environ: dict[str, str], arguments: tuple[str, ...], stdin: str, complaint: str
) -> None:
    with mock.patch.dict(os.environ, environ, clear=True):
        lazy.forget()
        done = CliRunner().invoke(app, ["submit", *arguments], input=stdin)
    lazy.forget()
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert complaint in done.stderr
    assert not done.stdout
    assert not queues(environ)


def test_provision_can_be_repeated_and_keeps_the_rules_of_others(environ: dict[str, str]) -> None:
    # Given a bucket with a lifecycle rule of someone else
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    client("s3", environ).put_bucket_lifecycle_configuration(
        Bucket=environ["S3_BUCKET"], LifecycleConfiguration={"Rules": [theirs]}
    )

    # When a dry run is made, Then it prints the planned changes and makes none
    done = image_pipeline("provision", "--dry-run", environ=environ)
    assert done.returncode == 0, done.stderr
    assert f"would create queue {environ['QUEUE_NAMESPACE']}_fetch\n" in done.stdout
    assert not queues(environ)
    assert rules(environ) == {"theirs": 3}

    # When it is run, Then the queues exist, and the bucket has both rules
    done = image_pipeline("provision", environ=environ)
    assert done.returncode == 0, done.stderr
    stages = ("fetch", "resize", "upload", "notify")
    wanted = {f"{environ['QUEUE_NAMESPACE']}_{stage}{kind}" for stage in stages for kind in ("", "_bulk", "_dlq")}
    assert set(queues(environ)) >= wanted
    assert rules(environ) == {"theirs": 3, "image-pipeline-staging": 14}

    # When it is run again, Then nothing is left to do
    done = image_pipeline("provision", environ=environ)
    assert (done.returncode, done.stdout) == (0, "Everything exists already; nothing was changed.\n")


def test_local_prints_addresses_and_leaves_nothing_running(environ: dict[str, str], tmp_path: Path) -> None:
    # Given the service, started by `local`
    environ |= {"ALLOWED_NETWORKS": "127.0.0.0/8,10.0.0.0/8"}
    log, env_file = tmp_path / "output", tmp_path / "local.env"
    some = "upload=2,sweep=0,giants=0,quarantine=0,scheduler=0"
    local = [sys.executable, "-m", "pipeline", "local", "--data-dir", str(tmp_path), "-c", some]
    with log.open("w") as output, subprocess.Popen(local, env=environ, stdout=output, stderr=output) as process:
        wait_for(lambda: "upload.2    | " in log.read_text() and "Taking messages" in log.read_text(), 60)
        assert "sweep.1" not in log.read_text()
        # Then a second terminal can use it
        script = 'set -a; . "$1"; set +a; exec "$2" -m pipeline provision'
        shell = ["sh", "-c", script, "sh", str(env_file), sys.executable]
        elsewhere = {"PATH": os.environ["PATH"]}
        done = subprocess.run(shell, env=elsewhere, capture_output=True, text=True, timeout=200, check=False)
        assert done.stdout == "Everything exists already; nothing was changed.\n", done.stderr
        assert "ALLOWED_NETWORKS=127.0.0.0/8,10.0.0.0/8\n" in env_file.read_text()
        # and the printed command sends a cover that the service serves itself, without any other network
        (cover,) = re.findall(r"submit --wait (http://127\.0\.0\.1:\d+/\S+)$", log.read_text(), flags=re.MULTILINE)
        script = 'set -a; . "$1"; set +a; exec "$2" -m pipeline submit --wait "$3"'
        shell = ["sh", "-c", script, "sh", str(env_file), sys.executable, cover]
        done = subprocess.run(shell, env=elsewhere, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        # and the dashboard is at the printed address
        (address,) = re.findall(r"^  Dashboard +(http://127\.0\.0\.1:\d+/)$", log.read_text(), flags=re.MULTILINE)
        wait_for(lambda: "The dashboard: http" in log.read_text(), 60)
        assert f"Queues <code>{environ['QUEUE_NAMESPACE']}_" in requests.get(address, timeout=30).text
        children = descendants(process.pid)
        assert len(children) > 8
        # When it is interrupted, as Ctrl-C does
        process.send_signal(signal.SIGINT)
        # Then it ends with status 0, and so do all its child processes
        assert process.wait(100) == 0
    assert log.read_text().endswith("Everything has stopped.\n")
    assert not env_file.exists()
    wait_for(lambda: not [pid for pid in children if runs(pid)])


def test_local_refuses_processes_missing_from_the_procfile(environ: dict[str, str]) -> None:
    done = image_pipeline("local", "-c", "resise=4", environ=environ)
    assert done.returncode == 2
    assert "has no resise, only fetch, resize" in done.stderr


def descendants(pid: int) -> list[int]:
    """Return the child processes of `pid` and their descendants."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def runs(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state) and not state.startswith("Z")
