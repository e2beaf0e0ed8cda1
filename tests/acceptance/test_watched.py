"""Job histories, traces and logs that all processes of the running service write together."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from pipeline import send_message
from pipeline.local.embedded import EmbeddedStack
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.monitoring.job_log.reader import JobHistory
from tests.acceptance.conftest import Service, World, procfile_with, running_service
from tests.acceptance.test_cli import image_pipeline
from tests.acceptance.test_service import picture, unique, wait_for_post
from tests.support.line import Line
from tests.support.trace_collector import Collector, collecting
from tests.support.waiting import wait_for

STAGES = ["fetch", "resize", "upload", "notify"]


@dataclass
class Watched:
    """The service, the line to its job log, and the collector of its traces."""

    service: Service
    mongo: Line
    traces: Collector

    def history(self, job_id: str) -> JobHistory:
        """Return the job's history once the job has ended."""
        return wait_for(
            lambda: (history := job_log_reader.history(job_id)) and history.status != "under_way" and history,
            timeout=60,
        )


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, world: World) -> Iterator[Watched]:
    with EmbeddedStack(tmp_path_factory.mktemp("watched")) as stack, collecting() as traces:
        url = urlsplit(stack.environ["MONGO_URL"])
        with Line(url.port or 0) as line:
            through = f"mongodb://127.0.0.1:{line.port}/jobs_{secrets.token_hex(4)}?serverSelectionTimeoutMS=500"
            more = {
                "JOBS_MONGO_URL": through,
                "OTEL_EXPORTER_OTLP_ENDPOINT": traces.endpoint,
                "OTEL_BSP_SCHEDULE_DELAY": "200",
                "LOG_FORMAT": "json",
                "MONGO_URL": "",
            }
            modules = dict.fromkeys([*STAGES, "sweep"], "brief_leases brief_mongo")
            procfile = procfile_with(tmp_path_factory.mktemp("procfile"), modules=modules)
            with running_service(stack, procfile, {"giants": 0, "quarantine": 0}, **more) as service:
                yield Watched(service, line, traces)


@pytest.fixture(autouse=True)
def running(watched: Watched) -> None:
    """Start the service again if the test before has stopped it."""
    watched.service.supervisor.start()


def send(world: World, path: str, hook: str) -> str:
    """Put a job on the input queue; returns its id."""
    payload = {"image_url": f"{world.url(path)}?token=hush", "bucket_name": "Watched", "postback_url": world.url(hook)}
    return send_message(payload)


def test_a_job_leaves_one_history_and_one_trace(watched: Watched, world: World) -> None:
    # Given a job that goes through all stages
    path, hook = unique("/cover.jpg"), unique("/hook")
    world.serve(path, picture("JPEG", (640, 480)))
    job_id = send(world, path, hook)
    result = wait_for_post(world, hook).body
    # Then its history is complete, once each process has written its part,
    complete = lambda: len((history := watched.history(job_id)).attempts) >= len(STAGES) and history  # noqa: E731
    history = wait_for(complete)
    assert (history.status, history.folder, history.lane) == ("done", "WATCHED", "live")
    assert [attempt.stage for attempt in history.attempts] == STAGES
    assert all(attempt.outcome == "done" and attempt.waited is not None for attempt in history.attempts)
    (source,) = history.sources
    assert source.url == world.url(path).removeprefix("http://")
    assert source.urls == {name: each["url"] for name, each in result["image_url_info"].items()}
    # and the status command prints it
    printed = image_pipeline("status", job_id[:13], environ=watched.service.environ | {"COLUMNS": "200"})
    assert f"{job_id}  done" in printed.stdout
    assert source.urls["800x800"] in printed.stdout
    # and it is one trace, named by the job's id, whose spans are in order below the first
    spans = wait_for(lambda: len(spans := watched.traces.trace(uuid.UUID(job_id).hex)) == 5 and spans)
    assert [span.name for span in spans] == ["job", *STAGES]
    assert {span.parent_span_id for span in spans[1:]} == {spans[0].span_id}
    assert "hush" not in str(history) + str(spans)


def test_an_outage_of_mongodb_loses_no_job_and_no_history(watched: Watched, world: World) -> None:
    path = unique("/cover.png")
    world.serve(path, picture("PNG"))
    hooks = [unique("/hook") for _ in range(8)]
    # Given jobs that succeed while the job log is unreachable
    with watched.mongo.down():
        ids = [send(world, path, hook) for hook in hooks]
        for hook in hooks:
            wait_for_post(world, hook)
        wait_for(lambda: "The job log is delayed" in watched.service.log, timeout=60)
    # When it is reachable again, Then it has their histories
    assert [watched.history(job_id).status for job_id in ids] == ["done"] * 8
    wait_for(lambda: "The job log is being written again" in watched.service.log, timeout=60)


def test_every_log_line_is_json_and_the_last_attempts_are_written_at_shutdown(watched: Watched, world: World) -> None:
    # Given a job whose result has just been posted
    path, hook = unique("/cover.webp"), unique("/hook")
    world.serve(path, picture("WEBP"))
    job_id = send(world, path, hook)
    wait_for_post(world, hook)
    # When all processes are stopped together
    watched.service.supervisor.stop()
    # Then its history is still complete
    history = job_log_reader.history(job_id)
    assert history
    assert [attempt.stage for attempt in history.attempts] == STAGES
    # and every log line is a JSON object, except those of dramatiq and periodiq before they load the project
    before = ("[dramatiq.MainProcess]", "Starting Periodiq")
    logged = [(name, json.loads(text)) for name, text in watched.service.lines if not any(b in text for b in before)]
    attempts = [line for _, line in logged if line.get("job") == job_id]
    assert [(each["stage"], each["outcome"]) for each in attempts] == [(stage, "done") for stage in STAGES]
    assert {name.partition(".")[0] for name, _ in logged} >= {*STAGES, "ingest", "sweep", "scheduler"}
    assert "hush" not in watched.service.log
