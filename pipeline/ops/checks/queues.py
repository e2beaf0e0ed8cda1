"""Checks of SQS: that it answers, each queue, and what may be done with it.

Permissions are tried with requests that must fail for another reason, so that no message is sent, hidden or deleted:
a batch whose one entry is wrong. SQS reports on the entries of a batch one by one in an answer with status 200, so an
answer about the entry means that the caller was let in:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
To receive is tried on an empty queue alone: each receive of a message counts against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.clients import aws
from pipeline.ops.checks.aws_answers import Answer, ask, meaning, unforeseen
from pipeline.ops.checks.model import Check, CheckStatus, Context, Row
from pipeline.ops.iam import input_queue
from pipeline.ops.provision import queue_specs
from pipeline.sqs.queues import MISSING_QUEUE, QueueSpec, differences, find_queue
from pipeline.stages import own_queues

#: Requests at a time.
THREADS = 8

_RECEIVE, _SEND, _COUNT = "sqs:ReceiveMessage", "sqs:SendMessage", "sqs:GetQueueAttributes"

#: A message that SQS refuses: it delays none by more than 900 s, and others refuse its character. All else is right.
_WRONG_MESSAGE: Final = {"Id": "check", "MessageBody": "\x00 image-pipeline check", "DelaySeconds": 901}
_OF_A_GROUP: Final = {"MessageGroupId": "check", "MessageDeduplicationId": "check"}
_WRONG_HANDLE: Final = {"Id": "check", "ReceiptHandle": "image-pipeline check"}

#: What SQS says of a request that is wrong in itself, where it does not say so of the entry.
_WRONG: Final = frozenset(
    {"InvalidParameterValue", "MissingParameter", "InvalidMessageContents", "ReceiptHandleIsInvalid"}
)

#: By the action that is tried: the request.
_TRIES: Final[Mapping[str, Callable[[str], Any]]] = {
    "sqs:DeleteMessage": lambda url: aws.sqs().delete_message_batch(
        QueueUrl=url,
        Entries=[_WRONG_HANDLE],  # type: ignore[list-item]
    ),
    "sqs:ChangeMessageVisibility": lambda url: aws.sqs().change_message_visibility_batch(
        QueueUrl=url,
        Entries=[_WRONG_HANDLE | {"VisibilityTimeout": 0}],  # type: ignore[list-item]
    ),
    _SEND: lambda url: aws.sqs().send_message_batch(
        QueueUrl=url,
        Entries=[_WRONG_MESSAGE | (_OF_A_GROUP if url.endswith(".fifo") else {})],  # type: ignore[list-item]
    ),
    _RECEIVE: lambda url: aws.sqs().receive_message(
        QueueUrl=url, MaxNumberOfMessages=1, VisibilityTimeout=0, WaitTimeSeconds=0
    ),
}


@dataclass(frozen=True)
class _Queue:
    """A queue that is there: whether messages wait in it is None where that may not be asked."""

    name: str
    url: str
    waits: bool | None


def _answers(context: Context) -> Iterator[Row]:
    settings = context.settings
    answer = ask(lambda: aws.sqs().get_queue_url(QueueName=context.queues()[0]))
    if answer.skew is not None:
        context.skews["SQS"] = answer.skew
    where = settings.sqs_endpoint or f"region {settings.aws_region}"
    source = "AWS_ACCESS_KEY_SQS" if settings.aws_access_key_sqs else "boto3's chain"
    if wrong := meaning(answer, "SQS", settings):
        yield Row(CheckStatus.FAIL, "SQS", *wrong)
    elif answer.error and not answer.denied and answer.code not in MISSING_QUEUE:
        yield Row(CheckStatus.FAIL, "SQS", *unforeseen(answer, "SQS", "look a queue up"))
    else:
        yield Row(CheckStatus.OK, "SQS", f"It answers ({where}) and takes the credentials of {source}.")


def _there(context: Context) -> list[tuple[QueueSpec, Answer]]:
    """The queues that are needed, each with its URL, or None, as the answer's value."""
    wanted = context.queues()
    specs = [spec for spec in queue_specs(context.settings) if spec.name in wanted]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(
            zip(specs, pool.map(lambda spec: ask(lambda: find_queue(aws.sqs(), spec.name)), specs), strict=True)
        )


def _queues(context: Context) -> Iterator[Row]:
    found = _there(context)
    missing = [spec for spec, answer in found if answer.error is None and answer.value is None]
    if found and len(missing) == len(found):
        yield Row(
            CheckStatus.FAIL,
            f"{context.settings.queue_namespace}_*",
            f"None of the {len(found)} queues is there, or they may not be looked up.",
            f"Look at QUEUE_NAMESPACE={context.settings.queue_namespace} and AWS_REGION={context.settings.aws_region}; "
            "if they are right, `image-pipeline provision` creates the queues.",
        )
        return
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(lambda pair: _set_up(context, *pair), found)


def _set_up(context: Context, spec: QueueSpec, found: Answer) -> Row:
    """Whether a queue is there, and set up as `provision` does it."""
    if found.denied:
        return Row(CheckStatus.FAIL, spec.name, "The queue may not be looked up.", "Allow sqs:GetQueueUrl on it.")
    if found.error:
        return Row(CheckStatus.FAIL, spec.name, *unforeseen(found, "SQS", "look it up"))
    if not found.value:
        message = "The queue is not there, or it may not be looked up."
        return Row(CheckStatus.FAIL, spec.name, message, "`image-pipeline provision` creates it.")
    return _compared(context, spec, ask(lambda: differences(aws.sqs(), spec, found.value)))


def _compared(context: Context, spec: QueueSpec, answer: Answer) -> Row:
    """What is to be said of the attributes in which a queue differs."""
    if answer.denied and spec.name in context.queues(_COUNT):
        message = f"The queue is there; these credentials may not {_COUNT} of it."
        return Row(CheckStatus.FAIL, spec.name, message, f"Allow it; `{context.policy}` prints the policy.")
    if answer.denied:
        message = "The queue is there; its attributes may not be read with these credentials."
        return Row(CheckStatus.SKIP, spec.name, message, "A worker need not; run `check` as an operator too.")
    if answer.error:
        return Row(CheckStatus.FAIL, spec.name, *unforeseen(answer, "SQS", "tell its attributes"))
    wrong = dict(answer.value)
    mend = "`image-pipeline provision` sets it right."
    if "RedrivePolicy" in wrong:
        to = f"to {spec.dead_letters}"
        message = f"The redrive policy {to} is missing or another: what kills its workers comes back for ever."
        return Row(CheckStatus.FAIL, spec.name, message, mend)
    if wrong:
        message = ", ".join(f"{name} is not {value}" for name, value in sorted(wrong.items()))
        return Row(CheckStatus.WARN, spec.name, f"The queue is set up otherwise: {message}.", mend)
    return Row(CheckStatus.OK, spec.name, "There, and set up as `provision` does it.")


def _permissions(context: Context) -> Iterator[Row]:
    """Every action that is needed, on every queue that is there."""
    needed = {action: set(context.queues(action)) for action in _TRIES}

    def tried(name: str, url: str) -> Row | None:
        actions = [action for action in _TRIES if name in needed[action]]
        return _allowed(context, _known(name, url), actions) if actions else None

    with ThreadPoolExecutor(THREADS) as pool:
        there = [(spec.name, answer.value) for spec, answer in _there(context) if answer.value]
        yield from filter(None, pool.map(lambda queue: tried(*queue), there))


def _known(name: str, url: str) -> _Queue:
    names: Any = ["ApproximateNumberOfMessages"]
    answer = ask(lambda: aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"])
    return _Queue(name, url, None if answer.error else answer.value.get(names[0], "0") != "0")


def _allowed(context: Context, queue: _Queue, actions: Iterable[str]) -> Row:
    tried = [action for action in actions if action != _RECEIVE or queue.waits is False]
    answers = {action: ask(lambda action=action: _TRIES[action](queue.url)) for action in tried}  # type: ignore[misc]
    refused = [action for action, answer in answers.items() if answer.denied]
    strange = {action: answer for action, answer in answers.items() if answer.error and answer.code not in _WRONG}
    if refused:
        return Row(
            CheckStatus.FAIL,
            queue.name,
            f"These credentials may not {' nor '.join(refused)} here.",
            f"Allow it; `{context.policy}` prints the policy.",
        )
    for action, answer in strange.items():
        if answer.code in MISSING_QUEUE:
            return Row(CheckStatus.FAIL, queue.name, "There is no such queue.", "Look at its name, region and account.")
        return Row(
            CheckStatus.FAIL,
            queue.name,
            *(meaning(answer, "SQS", context.settings) or unforeseen(answer, "SQS", action)),
        )
    if _SEND in answers and (answers[_SEND].value or {}).get("Successful"):
        return Row(
            CheckStatus.WARN,
            queue.name,
            "The endpoint took a message that SQS refuses.",
            "A message `image-pipeline check` will be a dead letter: purge it.",
        )
    if _RECEIVE in actions and _RECEIVE not in tried:
        why = (
            "messages wait in it, and it would count against them"
            if queue.waits
            else "it may not be asked if it is empty"
        )
        return Row(CheckStatus.SKIP, queue.name, f"To receive was not tried: {why}. The rest is allowed.")
    return Row(CheckStatus.OK, queue.name, "What its processes do with it is allowed.")


def _input(context: Context) -> Iterator[Row]:
    settings = context.settings
    queue = input_queue(settings)
    if queue is None or not settings.queue_url:
        yield Row(
            CheckStatus.SKIP,
            "QUEUE_URL",
            "It is not set: ingest is off.",
            "Name the input queue there if producers use one.",
        )
        return
    own = {f"{settings.queue_namespace}_{name}" for name in own_queues()}
    if queue.name in own:
        yield Row(
            CheckStatus.FAIL,
            "QUEUE_URL",
            f"It names {queue.name}, a queue of the service itself: ingest would take its jobs for input.",
            "Name the queue that producers send to.",
        )
        return
    if queue.region and queue.region != settings.aws_region and not settings.sqs_endpoint:
        yield Row(
            CheckStatus.FAIL,
            "QUEUE_URL",
            f"It is in {queue.region}, and AWS_REGION={settings.aws_region}: SQS is asked in the wrong region.",
            "Make the two agree.",
        )
        return
    actions = [action for action in _TRIES if context.takes_input(action)]
    row = _allowed(context, _known(queue.name, settings.queue_url), actions)
    if row.status is CheckStatus.OK:
        row = replace(row, message=f"{queue.name} is there, and what is done with it is allowed.")
    yield replace(row, subject="QUEUE_URL")


_INPUT = frozenset({"ingest", "producer", "operator", "dashboard"})

CHECKS = (
    Check("SQS", "answers", "Looks a queue up: the endpoint, the region, the credentials.", _answers, opens=True),
    Check("SQS", "queues", "Compares each queue's attributes with what provision sets.", _queues),
    Check(
        "SQS", "permissions", "Sends, deletes and shows what SQS must refuse; receives where it is empty.", _permissions
    ),
    Check("SQS", "input", "The same on the input queue.", _input, _INPUT),
)
