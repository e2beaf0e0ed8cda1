"""Messages between stages: their JSON, the job in a message, and the attempt that it asks for."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import dramatiq
from dramatiq.encoder import JSONEncoder

from pipeline.attempt import Attempt
from pipeline.errors import Rejected
from pipeline.job import Job
from pipeline.payload import parse_json, to_json
from pipeline.settings import get_settings
from pipeline.sqs.settlement import SQSMessage
from pipeline.sqs.wire import ATTEMPTS
from pipeline.stages import lane_of_queue, stage_of_queue
from pipeline.storage.staging import staging
from pipeline.worker.proof import check_proof, signed
from pipeline.worker.retry import delays_of


class Encoder(JSONEncoder):
    """Encodes messages as compact JSON, and a `bson.ObjectId` as its 24 hex digits.

    It decodes strictly, so that a message that was received can be sent again.
    """

    def encode(self, data: dict[str, Any]) -> bytes:
        return to_json(data).encode()

    def decode(self, data: bytes) -> dict[str, Any]:
        decoded: dict[str, Any] = parse_json(data.decode())
        return decoded


def job_of(message: dramatiq.Message[Any] | SQSMessage, stage_payload: Callable[[bytes], str] | None = None) -> Job:
    """Return the job in a message, or the new job that its payload asks for.

    The job of a received message has a ticket. At its first attempt it gets the time of its acceptance, unless it was
    redriven.

    Args:
        message: A message of a stage.
        stage_payload: Stores a payload that is too long for a message, and returns its key; by default in staging.

    Raises:
        Rejected: The message contains neither a job nor an acceptable payload.
        UnknownVersion: Another version of this software wrote the job.
    """
    sent = message.original if isinstance(message, SQSMessage) else message
    if set(sent.kwargs) == {"job"} and not sent.args:
        check_proof(sent.kwargs["job"], get_settings().job_keys)
        job = Job.decode(sent.kwargs["job"])
    elif len(sent.args) + len(sent.kwargs) != 1 or not sent.kwargs.keys() <= {"payload"}:
        raise Rejected("bad_job", "The message contains neither a payload nor a job.")
    else:
        job = Job.accept(
            payload_of(sent),
            job_id=sent.message_id,
            settings=get_settings(),
            stage_payload=stage_payload or staging().put,
        )
    if not isinstance(message, SQSMessage) or job.ticket:
        return job
    accepted = 0.0 if ATTEMPTS in message.options else message.message_timestamp / 1000
    return replace(job, ticket=message.sqs_id, accepted=accepted)


def job_kwargs(job: Job) -> dict[str, Any]:
    """Return the arguments of a message that carries `job`, with the proof that this service made it."""
    return {"job": signed(job.encode(), get_settings().job_keys)}


def payload_of(message: dramatiq.Message[Any]) -> Any:
    """Return the payload in a message of `send(payload)`."""
    return message.args[0] if message.args else message.kwargs.get("payload")


def attempt_at(message: SQSMessage) -> Attempt:
    """Return the attempt that a thread begins with a message, without the job, which has yet to be read."""
    stage, failures = stage_of_queue(message.queue_name), dict(message.options.get(ATTEMPTS, {}))
    return Attempt(
        stage.name if stage else message.original.queue_name,
        message_id=message.message_id,
        lane=lane_of_queue(message.original.queue_name),
        arrived=message.message_timestamp / 1000,
        began=message.began,
        deadline=message.began + stage.time_limit if stage else math.inf,
        failures=failures,
        delays=delays_of(get_settings()),
        is_repeated=message.receives > 1 or message.is_quarantined or bool(failures),
        process=_process(os.getpid()),
    )


@cache
def _process(number: int) -> str:
    return f"{socket.gethostname()}:{number}"
