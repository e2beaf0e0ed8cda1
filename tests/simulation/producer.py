"""The first messages of jobs, as producers send them: good, bad, and of other versions."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import dramatiq

from pipeline.job import VERSION, Job
from pipeline.settings import get_settings
from pipeline.sqs.wire import encode
from pipeline.stages import FETCH, Lane
from pipeline.worker.messages import job_kwargs
from tests.simulation.clock import VirtualClock
from tests.simulation.ledger import JobRecord
from tests.simulation.themes import InputQueue

NAMESPACE = "sim"

#: Seconds that a job of an older release still waits for its retry.
OLDER_WAIT = 20.0


def first_message(job: JobRecord, clock: VirtualClock, input_queue: InputQueue | None) -> tuple[str, dict[str, Any]]:
    """Return the queue and the entry with which a producer sends a job."""
    url = f"https://h.test/job-{job.number}"
    payload: dict[str, Any] = {"image_url": url, "postback_url": "https://r.test/"}
    if job.kind.body == "bad payload":
        payload = {"title": url, "postback_url": "https://r.test/"}
    garbage = f"neither JSON nor a message: /job-{job.number}" if job.kind.body == "garbage" else None
    if input_queue and job.kind.queue == FETCH.name:
        body = garbage or json.dumps(payload)
        fifo = {"MessageGroupId": f"g{job.number % 2}", "MessageDeduplicationId": str(job.number)}
        return input_queue.name, {"MessageBody": body} | (fifo if input_queue.name.endswith(".fifo") else {})
    message = dramatiq.Message(
        queue_name=FETCH.queue(Lane.BULK) if job.kind.body == "bulk job" else FETCH.name,
        actor_name=FETCH.actor,
        args=(payload,),
        kwargs={},
        options={},
        message_id=f"message of job {job.number}",
        message_timestamp=int(clock.time() * 1000),
    )
    if job.kind.body in {"bulk job", "newer job"}:
        message = message.copy(args=(), kwargs=_job_kwargs(job, payload))
    if job.kind.body == "older job":
        message = message.copy(args=(), **_of_release_0_2(job, payload, due=clock.time() + OLDER_WAIT))
    body = garbage or encode(message)
    if job.kind.body == "NaN":
        body = body.replace('"https://r.test/"', "NaN")
    return f"{NAMESPACE}_{job.kind.queue}", {"MessageBody": body}


def _job_kwargs(job: JobRecord, payload: dict[str, Any]) -> dict[str, Any]:
    made = Job.accept(payload, job_id=f"job-{job.number}", settings=get_settings(), stage_payload=_refuse)
    kwargs = job_kwargs(replace(made, lane=Lane.BULK if job.kind.body == "bulk job" else Lane.LIVE))
    if job.kind.body == "newer job":
        kwargs["job"]["v"] = VERSION + 1
    return kwargs


def _of_release_0_2(job: JobRecord, payload: dict[str, Any], *, due: float) -> dict[str, Any]:
    """Return the arguments and options of a job that release 0.2.0 retries, with the fields that it wrote."""
    source = {"url": payload["image_url"], "fields": ["image_url"]}
    encoded = {"v": 1, "id": f"job-{job.number}", "folder": "custom", "sources": [source], "ticket": "t"}
    options = {"group": "custom", "attempts": {"source": 1}, "due": int(due * 1000)}
    return {"kwargs": {"job": encoded | {"payload": payload}}, "options": options}


def _refuse(payload: bytes) -> str:
    raise AssertionError("No payload of a history is long.")
