"""What a person sees of the running service: stories, traces and logs made by all of its processes together."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from pipeline import send_message
from pipeline.job import input_job_id
from pipeline.local.embedded import EmbeddedStack
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.monitoring.job_log.reader import JobHistory
from tests.acceptance.conftest import PROCFILE, Service, World, running_service
from tests.acceptance.test_cli import image_pipeline
from tests.acceptance.test_service import picture, unique, wait_for_post
from tests.support.line import Line
from tests.support.trace_collector import Collector, attributes, collecting
from tests.support.waiting import wait_for

STAGES = ["fetch", "resize", "upload", "notify"]


@dataclass
class Watched:
    """The service, the line to its job log, and where its traces go."""

    service: Service
    mongo: Line
    traces: Collector

    def history(self, job_id: str) -> JobHistory:
        """The job's story, once it has ended."""
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
            with running_service(stack, PROCFILE, **more) as service:
                yield Watched(service, line, traces)


def send(world: World, path: str, hook: str) -> str:
    """Put a job on the input queue; returns its id."""
    payload = {"image_url": f"{world.url(path)}?token=hush", "bucket_name": "Watched", "postback_url": world.url(hook)}
    return input_job_id(send_message(payload))


def test_a_job_leaves_one_story_and_one_trace(watched: Watched, world: World) -> None:
    # Given a cover, and a job for it that goes through all stages
    path, hook = unique("/cover.jpg"), unique("/hook")
    world.serve(path, picture("JPEG", (640, 480)))
    job_id = send(world, path, hook)
    result = wait_for_post(world, hook).body
    # Then its story is complete
    history = watched.history(job_id)
    assert (history.status, history.folder, history.lane) == ("done", "WATCHED", "live")
    assert [turn.stage for turn in history.turns] == STAGES
    assert all(turn.verdict == "done" and turn.waited is not None for turn in history.turns)
    (source,) = history.sources
    assert source.url == f"127.0.0.1{path}"
    assert source.urls == {name: each["url"] for name, each in result["image_url_info"].items()}
    # and a person can read it
    told = image_pipeline("status", job_id[:13], environ=watched.service.environ | {"COLUMNS": "200"})
    assert f"{job_id}  done" in told.stdout
    assert source.urls["800x800"] in told.stdout
    # and it is one trace, found by the job's id, whose spans are in order below the first
    spans = wait_for(lambda: len(spans := watched.traces.trace(uuid.UUID(job_id).hex)) == 5 and spans)
    assert [span.name for span in spans] == ["job", *STAGES]
    assert {span.parent_span_id for span in spans[1:]} == {spans[0].span_id}
    assert "hush" not in str(history) + str(spans)


def test_a_job_that_fails_says_where_and_why(watched: Watched, world: World) -> None:
    path, hook = unique("/gone.jpg"), unique("/hook")
    world.serve(path, b"gone", status=404)
    job_id = send(world, path, hook)
    wait_for_post(world, hook)
    history = watched.history(job_id)
    assert (history.status, history.stage) == ("failed", "fetch")
    assert [turn.verdict for turn in history.turns] == ["given_up", "done"]
    (failure,) = [each for each in job_log_reader.failures(history.began) if job_id in each.job_ids]
    assert (failure.stage, failure.code) == ("fetch", "http_404")
    spans = wait_for(lambda: len(spans := watched.traces.trace(uuid.UUID(job_id).hex)) == 3 and spans)
    (failed,) = [span for span in spans if span.name == "fetch"]
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert attributes(failed)["error.type"] == "http_404"


def test_mongodb_away_in_the_middle_costs_no_job_and_no_story(watched: Watched, world: World) -> None:
    path = unique("/cover.png")
    world.serve(path, picture("PNG"))
    hooks = [unique("/hook") for _ in range(8)]
    # Given jobs that are sent while the job log cannot be reached, and have their results all the same
    with watched.mongo.down():
        ids = [send(world, path, hook) for hook in hooks]
        for hook in hooks:
            wait_for_post(world, hook)
        wait_for(lambda: "The job log is delayed" in watched.service.log, timeout=60)
    # When it can be reached again, their stories are told
    assert [watched.history(job_id).status for job_id in ids] == ["done"] * 8
    wait_for(lambda: "The job log is being written again" in watched.service.log, timeout=60)


def test_every_line_of_the_workers_is_json_and_the_last_turns_are_written_at_the_end(
    watched: Watched, world: World
) -> None:
    # Given a job that has just had its result
    path, hook = unique("/cover.webp"), unique("/hook")
    world.serve(path, picture("WEBP"))
    job_id = send(world, path, hook)
    wait_for_post(world, hook)
    # When all processes are stopped at once
    watched.service.supervisor.stop()
    # Then its story is complete all the same
    history = job_log_reader.history(job_id)
    assert history
    assert [turn.stage for turn in history.turns] == STAGES
    # and all that was ever said is objects, but for what dramatiq and periodiq say before they load the project
    before = ("[dramatiq.MainProcess]", "Starting Periodiq")
    said = [(name, json.loads(text)) for name, text in watched.service.lines if not any(b in text for b in before)]
    turns = [line for _, line in said if line.get("job") == job_id]
    assert [(turn["stage"], turn["outcome"]) for turn in turns] == [(stage, "done") for stage in STAGES]
    assert {name.partition(".")[0] for name, _ in said} >= {*STAGES, "ingest", "sweep", "scheduler"}
    assert "hush" not in watched.service.log
