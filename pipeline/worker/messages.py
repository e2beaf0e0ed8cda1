"""The messages of stages: the job in one, and how often it was tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dramatiq
from dramatiq.middleware import CurrentMessage

from pipeline.errors import Rejected
from pipeline.job import Job
from pipeline.settings import get_settings
from pipeline.sqs.message import SQSMessage
from pipeline.sqs.wire import ATTEMPTS
from pipeline.storage.staging import staging


def job_of(message: dramatiq.Message[Any] | SQSMessage, stage_payload: Callable[[bytes], str] | None = None) -> Job:
    """The job in a message of a stage, or the new one that its payload asks for; a received one has its ticket.

    `stage_payload` puts a payload that is too long for a message into staging; by default it is put there.

    Raises:
        Rejected, UnknownVersion: as `Job.accept` and `Job.decode` do.
    """
    if set(message.kwargs) == {"job"} and not message.args:
        job = Job.decode(message.kwargs["job"])
    elif len(message.args) + len(message.kwargs) != 1 or not message.kwargs.keys() <= {"payload"}:
        raise Rejected("bad_job", "The message holds neither a payload nor a job.")
    else:
        job = Job.accept(
            payload_of(message),
            job_id=message.message_id,
            own_queues=get_settings().own_queues,
            stage_payload=stage_payload or staging().put,
        )
    return replace(job, ticket=message.sqs_id) if isinstance(message, SQSMessage) and not job.ticket else job


def payload_of(message: dramatiq.Message[Any] | SQSMessage) -> Any:
    """The payload in a message of `send(payload)`."""
    return message.args[0] if message.args else message.kwargs.get("payload")


def current_message() -> SQSMessage:
    """The message that this thread works on."""
    message = CurrentMessage.get_current_message()
    if not isinstance(message, SQSMessage):
        raise RuntimeError("a stage's actor runs in a worker only: use send()")
    return message


def attempt_of(message: dramatiq.Message[Any] | SQSMessage) -> int:
    """Which attempt of its stage a message is, from 1."""
    return sum(attempts_of(message).values()) + 1


def attempts_of(message: dramatiq.Message[Any] | SQSMessage) -> dict[str, int]:
    """How often a message failed, by the list of delays that each failure was followed by."""
    return dict(message.options.get(ATTEMPTS, {}))
