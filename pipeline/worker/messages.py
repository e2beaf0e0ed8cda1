"""Messages between stages: their JSON, the job in a message, and its number of attempts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dramatiq
from dramatiq.encoder import JSONEncoder
from dramatiq.middleware import CurrentMessage

from pipeline.errors import PipelineError, Rejected, Retry
from pipeline.job import Job
from pipeline.payload import parse_json, to_json
from pipeline.settings import get_settings
from pipeline.sqs.settlement import SQSMessage
from pipeline.sqs.wire import ATTEMPTS
from pipeline.storage.staging import staging
from pipeline.worker.proof import check_proof, signed
from pipeline.worker.retry import RetryPolicy


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
    if set(message.kwargs) == {"job"} and not message.args:
        check_proof(message.kwargs["job"], get_settings().job_keys)
        job = Job.decode(message.kwargs["job"])
    elif len(message.args) + len(message.kwargs) != 1 or not message.kwargs.keys() <= {"payload"}:
        raise Rejected("bad_job", "The message contains neither a payload nor a job.")
    else:
        job = Job.accept(
            payload_of(message),
            job_id=message.message_id,
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


def payload_of(message: dramatiq.Message[Any] | SQSMessage) -> Any:
    """Return the payload in a message of `send(payload)`."""
    return message.args[0] if message.args else message.kwargs.get("payload")


def current_message() -> SQSMessage:
    """Return the message that this thread is processing."""
    message = CurrentMessage.get_current_message()
    if not isinstance(message, SQSMessage):
        raise RuntimeError("The actor of a stage runs only in a worker. Use send().")
    return message


def is_source_retried() -> bool:
    """Return whether this thread's message has failed because of a source before; False outside a worker."""
    message = CurrentMessage.get_current_message()
    return message is not None and bool(attempts_of(message).get(Retry.SOURCE))


def is_given_up(error: PipelineError) -> bool:
    """Return whether this thread's message is not attempted again after `error`."""
    return RetryPolicy(get_settings()).decide(error, attempts_of(current_message())).wait is None


def attempt_of(message: dramatiq.Message[Any] | SQSMessage) -> int:
    """Return the number of the attempt that a message asks for, from 1."""
    return sum(attempts_of(message).values()) + 1


def attempts_of(message: dramatiq.Message[Any] | SQSMessage) -> dict[str, int]:
    """Return how often a message failed, by the kind of retry that followed."""
    return dict(message.options.get(ATTEMPTS, {}))
