"""The in-memory SQS of the simulator answers as two SQS servers do, and as AWS documents where these do not.

The table in README.md lists the stories in which a server differs from AWS.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from botocore.exceptions import ClientError

from pipeline.clients import aws
from tests.simulation.clock import VirtualClock
from tests.simulation.memory_sqs import MemorySQS
from tests.support.waiting import wait_for

ALL = {"MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"], "MaxNumberOfMessages": 10}
README = Path(__file__).with_name("README.md")
COUNTS = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
]


class Side(Protocol):
    """One of the two that are compared.

    Attributes:
        client: A boto3 client, or the in-memory SQS.
    """

    client: Any

    def awaited(self, ask: Callable[[], Any]) -> Any:
        """Let time pass until `ask` returns something, and return that."""


class Served:
    def __init__(self) -> None:
        self.client: Any = aws.sqs()

    def awaited(self, ask: Callable[[], Any]) -> Any:
        return wait_for(ask)


class InMemory:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.client: Any = MemorySQS(self.clock)

    def awaited(self, ask: Callable[[], Any]) -> Any:
        for _ in range(100):
            if answer := ask():
                return answer
            self.clock.advance_to(self.clock.now + 0.1)
        raise AssertionError("Nothing came.")


def create(side: Side, suffix: str = "", **attributes: str) -> str:
    name = f"{secrets.token_hex(6)}{suffix}"
    url: str = side.client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    assert side.client.get_queue_url(QueueName=name)["QueueUrl"] == url
    return url


def arn(side: Side, url: str) -> str:
    answer = side.client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return str(answer["Attributes"]["QueueArn"])


def send(side: Side, url: str, *bodies: str, **more: Any) -> Any:
    entries = [{"Id": str(i), "MessageBody": body, **more} for i, body in enumerate(bodies)]
    return side.client.send_message_batch(QueueUrl=url, Entries=entries)


def receive(side: Side, url: str, **more: Any) -> list[Any]:
    return side.client.receive_message(QueueUrl=url, WaitTimeSeconds=0, **ALL | more).get("Messages", [])  # type: ignore[no-any-return]


def delete(side: Side, url: str, *handles: str) -> Any:
    entries = [{"Id": str(i), "ReceiptHandle": handle} for i, handle in enumerate(handles)]
    return outcome(side.client.delete_message_batch(QueueUrl=url, Entries=entries))


def hide(side: Side, url: str, seconds: int, *handles: str) -> Any:
    entries = [{"Id": str(i), "ReceiptHandle": h, "VisibilityTimeout": seconds} for i, h in enumerate(handles)]
    return outcome(side.client.change_message_visibility_batch(QueueUrl=url, Entries=entries))


def outcome(answer: dict[str, Any]) -> Any:
    """Return which entries of a batch succeeded, and which failed by the sender's fault."""
    return (
        sorted(entry["Id"] for entry in answer.get("Successful", [])),
        sorted((entry["Id"], entry["SenderFault"]) for entry in answer.get("Failed", [])),
    )


def refusal(call: Callable[[], Any]) -> Any:
    try:
        call()
    except ClientError as error:
        return error.response["Error"]["Code"].rpartition(".")[2]
    return None


def counts(side: Side, url: str) -> list[str]:
    attributes = side.client.get_queue_attributes(QueueUrl=url, AttributeNames=COUNTS)["Attributes"]
    return [attributes[name] for name in COUNTS]


def brief(message: Any) -> Any:
    """Return the part of a received message that is the same on both sides."""
    system = message["Attributes"]
    return (
        message["Body"],
        system["ApproximateReceiveCount"],
        system.get("MessageGroupId"),
        {name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()},
    )


def bodies(messages: list[Any]) -> list[str]:
    return [message["Body"] for message in messages]


def sends_and_receives(side: Side) -> Any:
    url = create(side)
    sent = send(side, url, "a", "b", MessageAttributes={"why": {"DataType": "String", "StringValue": "x"}})
    received = receive(side, url)
    known = [message["MessageId"] for message in sent["Successful"]] == [m["MessageId"] for m in received]
    return outcome(sent), [brief(message) for message in received], known, receive(side, url), counts(side, url)


def hides_until_the_timeout(side: Side) -> Any:
    url = create(side, VisibilityTimeout="1")
    send(side, url, "a")
    first, hidden = receive(side, url), receive(side, url)
    again = side.awaited(lambda: receive(side, url))
    return hidden, first[0]["ReceiptHandle"] != again[0]["ReceiptHandle"], brief(again[0])


def extends_and_releases(side: Side) -> Any:
    url = create(side)
    send(side, url, "a", "b")
    handles = [message["ReceiptHandle"] for message in receive(side, url, VisibilityTimeout=5)]
    extended = hide(side, url, 40, *handles)
    hidden = receive(side, url)
    released = hide(side, url, 0, handles[1])
    return extended, hidden, released, [brief(message) for message in receive(side, url)]


def releases_after_a_delay(side: Side) -> Any:
    url = create(side)
    send(side, url, "a")
    handle = receive(side, url)[0]["ReceiptHandle"]
    hide(side, url, 1, handle)
    return receive(side, url), brief(side.awaited(lambda: receive(side, url))[0])


def delays(side: Side) -> Any:
    url = create(side)
    send(side, url, "a", DelaySeconds=1)
    early = receive(side, url), counts(side, url)
    return early, brief(side.awaited(lambda: receive(side, url))[0])


def deletes(side: Side) -> Any:
    url = create(side)
    send(side, url, "a", "b")
    handles = [message["ReceiptHandle"] for message in receive(side, url)]
    first = delete(side, url, handles[0])
    return first, delete(side, url, handles[1]), counts(side, url)


def cannot_hide_a_deleted_message(side: Side) -> Any:
    url = create(side)
    send(side, url, "a")
    handle = receive(side, url)[0]["ReceiptHandle"]
    delete(side, url, handle)
    return hide(side, url, 10, handle)


def counts_receives_up_to_the_redrive_policy(side: Side) -> Any:
    dead = create(side)
    policy = json.dumps({"deadLetterTargetArn": arn(side, dead), "maxReceiveCount": 2})
    url = create(side, RedrivePolicy=policy)
    sent = send(side, url, "a", MessageAttributes={"why": {"DataType": "String", "StringValue": "x"}})
    living = [brief(receive(side, url, VisibilityTimeout=0)[0]) for _ in range(2)]
    third = receive(side, url)
    (letter,) = side.awaited(lambda: receive(side, dead))
    same = letter["MessageId"] == sent["Successful"][0]["MessageId"]
    return living, third, letter["Body"], sorted(letter["MessageAttributes"]), same, counts(side, url)


def keeps_the_order_of_a_group(side: Side) -> Any:
    url = create(side, ".fifo", FifoQueue="true")
    for number, group in enumerate(["g", "h", "g"]):
        send(side, url, f"{group}{number}", MessageGroupId=group, MessageDeduplicationId=str(number))
    first = receive(side, url, MaxNumberOfMessages=1)
    others = receive(side, url)  # the group of the first is blocked while it is in flight
    delete(side, url, first[0]["ReceiptHandle"])
    return brief(first[0]), bodies(others), bodies(receive(side, url))


def drops_what_was_sent_twice_to_a_fifo_queue(side: Side) -> Any:
    url = create(side, ".fifo", FifoQueue="true")
    for body in ("a", "b"):
        send(side, url, body, MessageGroupId="g", MessageDeduplicationId="same")
    return bodies(receive(side, url))


def refuses_bad_batches(side: Side) -> Any:
    url = create(side)
    entry = {"Id": "0", "MessageBody": "a"}
    many = [{"Id": str(i), "MessageBody": "a"} for i in range(11)]
    return [
        refusal(lambda e=e: side.client.send_message_batch(QueueUrl=url, Entries=e)) for e in (many, [entry, entry])
    ]


def refuses_what_does_not_exist(side: Side) -> Any:
    url = create(side)
    side.client.delete_queue(QueueUrl=url)
    return [
        refusal(lambda: side.client.get_queue_url(QueueName="absent")),
        refusal(lambda: side.client.send_message_batch(QueueUrl=url, Entries=[{"Id": "0", "MessageBody": "a"}])),
        refusal(lambda: side.client.receive_message(QueueUrl=url)),
        refusal(lambda: side.client.delete_message_batch(QueueUrl=url, Entries=[{"Id": "0", "ReceiptHandle": "x"}])),
    ]


def refuses_a_known_queue_with_other_attributes(side: Side) -> Any:
    name = secrets.token_hex(6)
    side.client.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "45"})
    return [
        refusal(lambda v=v: side.client.create_queue(QueueName=name, Attributes={"VisibilityTimeout": v}))
        for v in ("45", "46")
    ]


def refuses_what_is_too_large(side: Side) -> Any:
    url = create(side)
    largest = "x" * 1024 * 1024
    refused = [
        refusal(lambda: side.client.send_message(QueueUrl=url, MessageBody=f"{largest}x")),
        refusal(lambda: send(side, url, largest, "x")),
    ]
    return refused, outcome(send(side, url, largest)), [len(body) for body in bodies(receive(side, url))]


def refuses_a_fifo_message_without_group_or_id(side: Side) -> Any:
    url = create(side, ".fifo", FifoQueue="true")
    fields = [{"MessageGroupId": "g"}, {"MessageDeduplicationId": "1"}, {"MessageGroupId": "g", "DelaySeconds": 5}]
    return [refusal(lambda f=f: side.client.send_message(QueueUrl=url, MessageBody="a", **f)) is None for f in fields]


def settles_the_rest_of_a_batch(side: Side) -> Any:
    url = create(side)
    send(side, url, "a", "b")
    a, b = (message["ReceiptHandle"] for message in receive(side, url))
    return hide(side, url, 40, "garbage", a), delete(side, url, b, "garbage"), counts(side, url)


def accepts_groups_in_a_standard_queue(side: Side) -> Any:
    url = create(side)
    send(side, url, "a", "b", MessageGroupId="g")
    return [brief(receive(side, url, MaxNumberOfMessages=1)[0]) for _ in range(2)]


def keeps_the_order_of_a_group_after_a_release(side: Side) -> Any:
    url = create(side, ".fifo", FifoQueue="true")
    for body in ("a", "b"):
        send(side, url, body, MessageGroupId="g", MessageDeduplicationId=body)
    (first,) = receive(side, url, MaxNumberOfMessages=1)
    hide(side, url, 0, first["ReceiptHandle"])
    return bodies(receive(side, url))


def accepts_the_delete_of_a_deleted_message(side: Side) -> Any:
    url = create(side)
    send(side, url, "a")
    handle = receive(side, url)[0]["ReceiptHandle"]
    return delete(side, url, handle), delete(side, url, handle)


def accepts_a_stale_handle_and_deletes_nothing(side: Side) -> Any:
    url = create(side)
    send(side, url, "a")
    (stale,) = receive(side, url, VisibilityTimeout=0)
    receive(side, url)
    return delete(side, url, stale["ReceiptHandle"]), counts(side, url)


def refuses_to_release_by_a_stale_handle(side: Side) -> Any:
    url = create(side)
    send(side, url, "a")
    (stale,) = receive(side, url, VisibilityTimeout=0)
    receive(side, url)
    return hide(side, url, 0, stale["ReceiptHandle"]), counts(side, url)


def refuses_to_hide_a_visible_message(side: Side) -> Any:
    url = create(side)
    send(side, url, "a")
    (received,) = receive(side, url, VisibilityTimeout=0)
    return hide(side, url, 30, received["ReceiptHandle"]), counts(side, url)


def refuses_to_hide_beyond_12_hours(side: Side) -> Any:
    url = create(side)
    send(side, url, "a")
    return hide(side, url, 43_201, receive(side, url)[0]["ReceiptHandle"])


def refuses_to_delete_by_an_expired_handle_of_a_fifo_queue(side: Side) -> Any:
    url = create(side, ".fifo", FifoQueue="true")
    send(side, url, "a", MessageGroupId="g", MessageDeduplicationId="1")
    (received,) = receive(side, url, VisibilityTimeout=0)
    return delete(side, url, received["ReceiptHandle"]), bodies(receive(side, url))


def remembers_what_was_sent_to_a_fifo_queue_after_its_delete(side: Side) -> Any:
    url = create(side, ".fifo", FifoQueue="true")
    again = {"MessageGroupId": "g", "MessageDeduplicationId": "1"}
    send(side, url, "a", **again)
    delete(side, url, receive(side, url)[0]["ReceiptHandle"])
    return outcome(send(side, url, "a", **again)), receive(side, url)


def names_the_queue_of_a_dead_letter(side: Side) -> Any:
    dead = create(side)
    url = create(side, RedrivePolicy=json.dumps({"deadLetterTargetArn": arn(side, dead), "maxReceiveCount": 1}))
    send(side, url, "a")
    receive(side, url, VisibilityTimeout=0)
    receive(side, url)
    (letter,) = side.awaited(lambda: receive(side, dead))
    system = letter["Attributes"]
    return system["ApproximateReceiveCount"], system.get("DeadLetterQueueSourceArn") == arn(side, url)


def refuses_a_delay_beyond_15_minutes(side: Side) -> Any:
    return outcome(send(side, create(side), "a", DelaySeconds=901))


def refuses_an_empty_body(side: Side) -> Any:
    return outcome(send(side, create(side), "", "a"))


def counts_attributes_in_the_size_of_a_message(side: Side) -> Any:
    url = create(side)
    attributes = {"why": {"DataType": "String", "StringValue": "x"}}
    body = "x" * (1024 * 1024 - len("whyString"))
    return refusal(lambda: side.client.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes))


def keeps_unicode(side: Side) -> Any:
    url = create(side)
    return outcome(send(side, url, "ü\U0001f600\t\n\x7f")), bodies(receive(side, url))


def replaces_characters_that_xml_excludes(side: Side) -> Any:
    url = create(side)
    return outcome(send(side, url, "a\x01", "a\uffff")), bodies(receive(side, url))


def sends_the_rest_of_a_fifo_batch(side: Side) -> Any:
    url = create(side, ".fifo", FifoQueue="true")
    good = {"Id": "good", "MessageBody": "a", "MessageGroupId": "g", "MessageDeduplicationId": "1"}
    batch = [good, {"Id": "bad", "MessageBody": "b", "MessageDeduplicationId": "2"}]
    try:
        return outcome(side.client.send_message_batch(QueueUrl=url, Entries=batch)), bodies(receive(side, url))
    except ClientError as error:
        return error.response["Error"]["Code"]


STORIES = [
    sends_and_receives,
    hides_until_the_timeout,
    extends_and_releases,
    releases_after_a_delay,
    delays,
    deletes,
    cannot_hide_a_deleted_message,
    counts_receives_up_to_the_redrive_policy,
    keeps_the_order_of_a_group,
    keeps_the_order_of_a_group_after_a_release,
    drops_what_was_sent_twice_to_a_fifo_queue,
    accepts_groups_in_a_standard_queue,
    settles_the_rest_of_a_batch,
    keeps_unicode,
    refuses_bad_batches,
    refuses_what_does_not_exist,
    refuses_a_known_queue_with_other_attributes,
    refuses_what_is_too_large,
    refuses_a_fifo_message_without_group_or_id,
    # In these, a server differs.
    accepts_the_delete_of_a_deleted_message,
    accepts_a_stale_handle_and_deletes_nothing,
    refuses_to_release_by_a_stale_handle,
    refuses_to_hide_a_visible_message,
    refuses_to_hide_beyond_12_hours,
    refuses_to_delete_by_an_expired_handle_of_a_fifo_queue,
    remembers_what_was_sent_to_a_fifo_queue_after_its_delete,
    sends_the_rest_of_a_fifo_batch,
    names_the_queue_of_a_dead_letter,
    counts_attributes_in_the_size_of_a_message,
    replaces_characters_that_xml_excludes,
    refuses_a_delay_beyond_15_minutes,
    refuses_an_empty_body,
]


def differences() -> dict[str, set[str]]:
    """Return the servers that differ from AWS in each story, as the table in README.md lists them."""
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in README.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    servers = head[2:4]
    return {row[0].strip("`"): {s for s, answer in zip(servers, row[2:4], strict=True) if answer} for row in rows}


@pytest.mark.parametrize("story", STORIES)
def test_the_in_memory_sqs_answers_as_the_servers_do_or_as_aws_documents(
    environment, story, request: pytest.FixtureRequest
) -> None:
    server = request.node.callspec.params["environment"]
    ours, theirs = story(InMemory()), story(Served())
    if server in differences().get(story.__name__, ()):
        assert theirs != ours, "It answers as AWS documents: empty its cell in README.md."
    else:
        assert theirs == ours


def test_the_table_of_differences_names_stories_alone() -> None:
    assert set(differences()) < {story.__name__ for story in STORIES}
