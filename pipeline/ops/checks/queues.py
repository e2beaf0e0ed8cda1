"""Checks that SQS answers, that each queue is set up, and that the processes have the permissions they need.

Permissions are tested with requests that must fail for another reason, so that no message is sent, hidden or deleted:
a batch with one invalid entry. SQS reports each entry of a batch in a response with status 200, so an error about the
entry means that the caller has the permission:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
Receiving is tested on empty queues only because each receive counts against a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from pipeline.clients import aws
from pipeline.ops.checks.aws_answers import Answer, ask, meaning, unexpected
from pipeline.ops.checks.model import Check, CheckStatus, Context, Row, fail, ok, skip, warn
from pipeline.ops.iam import input_queue
from pipeline.ops.provision import differences, queue_specs
from pipeline.sqs.queues import MISSING_QUEUE, QueueSpec, find_queue
from pipeline.stages import own_queues

#: Concurrent requests.
THREADS = 8

_RECEIVE, _SEND, _COUNT = "sqs:ReceiveMessage", "sqs:SendMessage", "sqs:GetQueueAttributes"

#: A message that SQS refuses because of its delay (maximum 900 s), and emulators because of its character.
_WRONG_MESSAGE: Final = {"Id": "check", "MessageBody": "\x00 image-pipeline check", "DelaySeconds": 901}
_OF_A_GROUP: Final = {"MessageGroupId": "check", "MessageDeduplicationId": "check"}
_WRONG_HANDLE: Final = {"Id": "check", "ReceiptHandle": "image-pipeline check"}

#: Codes of SQS for an invalid request, if it does not report the entry.
_WRONG: Final = frozenset(
    {"InvalidParameterValue", "MissingParameter", "InvalidMessageContents", "ReceiptHandleIsInvalid"}
)

#: Requests by the action that they test.
_REQUESTS: Final[Mapping[str, Callable[[str], Any]]] = {
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


def _answers(context: Context) -> Iterator[Row]:
    """Look up a queue, to test the endpoint, the region and the credentials."""
    settings = context.settings
    answer = ask(lambda: aws.sqs().get_queue_url(QueueName=context.queues()[0]))
    if answer.skew is not None:
        context.skews["SQS"] = answer.skew
    where = settings.sqs_endpoint or f"region {settings.aws_region}"
    source = "AWS_ACCESS_KEY_SQS" if settings.aws_access_key_sqs else "boto3's chain"
    if wrong := meaning(answer, "SQS", settings):
        yield fail("SQS", *wrong)
    elif answer.error and not answer.denied and answer.code not in MISSING_QUEUE:
        yield fail("SQS", *unexpected(answer, "SQS", "look up a queue"))
    else:
        yield ok("SQS", f"It answers ({where}) and accepts the credentials of {source}.")


def _find(context: Context) -> list[tuple[QueueSpec, Answer]]:
    """Look up the needed queues; the value of each answer is the URL, or None if the queue is missing."""
    wanted = context.queues()
    specs = [spec for spec in queue_specs(context.settings) if spec.name in wanted]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(
            zip(specs, pool.map(lambda spec: ask(lambda: find_queue(aws.sqs(), spec.name)), specs), strict=True)
        )


def _queues(context: Context) -> Iterator[Row]:
    """Compare each queue's attributes with those of `provision`, and test every needed action on it."""
    found = _find(context)
    missing = [spec for spec, answer in found if answer.error is None and answer.value is None]
    if found and len(missing) == len(found):
        yield fail(
            f"{context.settings.queue_namespace}_*",
            f"None of the {len(found)} queues exists, or looking them up is not permitted.",
            f"Check QUEUE_NAMESPACE={context.settings.queue_namespace} and AWS_REGION={context.settings.aws_region}; "
            "if they are correct, `image-pipeline provision` creates the queues.",
        )
        return
    needed = {action: context.queues(action) for action in _REQUESTS}

    def check(pair: tuple[QueueSpec, Answer]) -> Iterator[Row]:
        spec, answer = pair
        yield _configured(context, spec, answer)
        actions = [action for action in _REQUESTS if spec.name in needed[action]]
        if answer.value and actions:
            yield _allowed(context, spec.name, answer.value, actions)

    with ThreadPoolExecutor(THREADS) as pool:
        yield from chain.from_iterable(pool.map(lambda pair: list(check(pair)), found))


def _configured(context: Context, spec: QueueSpec, found: Answer) -> Row:
    """Check that a queue exists and is configured as `provision` does it."""
    if found.denied:
        return fail(spec.name, "Looking up the queue is not permitted.", "Allow sqs:GetQueueUrl on it.")
    if found.error:
        return fail(spec.name, *unexpected(found, "SQS", "look it up"))
    if not found.value:
        message = "The queue is missing, or looking it up is not permitted."
        return fail(spec.name, message, "`image-pipeline provision` creates it.")
    return _compared(context, spec, ask(lambda: differences(aws.sqs(), spec, found.value)))


def _compared(context: Context, spec: QueueSpec, answer: Answer) -> Row:
    """Report the attributes that differ from those of `provision`."""
    if answer.denied and spec.name in context.queues(_COUNT):
        return context.denied(spec.name, [_COUNT], "on it")
    if answer.denied:
        message = "The queue exists, but these credentials do not permit reading its attributes."
        return skip(spec.name, message, "A worker does not need that; run `check` as an operator too.")
    if answer.error:
        return fail(spec.name, *unexpected(answer, "SQS", "return its attributes"))
    wrong = dict(answer.value)
    fix = "`image-pipeline provision` fixes it."
    if "RedrivePolicy" in wrong:
        to = f"to {spec.dead_letters}"
        message = f"The redrive policy {to} is missing or different: a message that kills its workers returns forever."
        return fail(spec.name, message, fix)
    if wrong:
        message = ", ".join(f"{name} is not {value}" for name, value in sorted(wrong.items()))
        return warn(spec.name, f"The configuration differs: {message}.", fix)
    return ok(spec.name, "It exists, and is configured as `provision` does it.")


def _is_empty(url: str) -> bool:
    """Return whether a queue is known to have no visible messages."""
    names: Any = ["ApproximateNumberOfMessages"]
    answer = ask(lambda: aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"])
    return not answer.error and answer.value.get(names[0], "0") == "0"


def _allowed(context: Context, name: str, url: str, actions: Iterable[str]) -> Row:
    """Return whether the actions are permitted on a queue that exists."""
    tried = [action for action in actions if action != _RECEIVE or _is_empty(url)]
    answers = {action: ask(lambda action=action: _REQUESTS[action](url)) for action in tried}  # type: ignore[misc]
    if refused := [action for action, answer in answers.items() if answer.denied]:
        return context.denied(name, refused, "here")
    for action, answer in answers.items():
        if answer.code in MISSING_QUEUE:
            return fail(name, "The queue does not exist.", "Check its name, region and account.")
        if answer.error and answer.code not in _WRONG:
            return fail(name, *(meaning(answer, "SQS", context.settings) or unexpected(answer, "SQS", action)))
    if _RECEIVE in actions and _RECEIVE not in tried:
        why = "messages may wait in it, and a receive would count against them"
        return skip(name, f"Receiving was not tested: {why}. All other actions are permitted.")
    return ok(name, "All actions that the processes need are permitted.")


def _input(context: Context) -> Iterator[Row]:
    """Check the input queue, and the permissions on it."""
    settings = context.settings
    queue = input_queue(settings)
    if queue is None or not settings.queue_url:
        yield skip(
            "QUEUE_URL",
            "It is not set, so ingest is off.",
            "Set it to the URL of the input queue if producers use one.",
        )
        return
    own = {settings.full_queue_name(name) for name in own_queues()}
    if queue.name in own:
        yield fail(
            "QUEUE_URL",
            f"It names {queue.name}, a queue of the service itself: ingest would read its jobs as input.",
            "Set it to the queue that producers send to.",
        )
        return
    if queue.region and queue.region != settings.aws_region and not settings.sqs_endpoint:
        yield fail(
            "QUEUE_URL",
            f"It is in {queue.region}, but AWS_REGION={settings.aws_region}: requests go to the wrong region.",
            "Make them agree.",
        )
        return
    actions = [action for action in _REQUESTS if context.takes_input(action)]
    row = _allowed(context, queue.name, settings.queue_url, actions)
    if row.status is CheckStatus.OK:
        row = replace(row, message=f"{queue.name} exists, and all needed actions are permitted.")
    yield replace(row, subject="QUEUE_URL")


_INPUT = frozenset({"ingest", "producer", "operator", "dashboard"})

CHECKS = (
    Check("SQS", "answers", _answers, opens=True),
    Check("SQS", "queues", _queues),
    Check("SQS", "input", _input, _INPUT),
)
