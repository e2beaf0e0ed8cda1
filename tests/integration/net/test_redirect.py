"""Results are redirected to the queue that a message names (contract, section 4)."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import pytest
from botocore.stub import Stubber

from pipeline.clients import aws, lazy
from pipeline.errors import PermanentError, Retry, RetryableError
from pipeline.net.notifications import redirect
from pipeline.sqs.queues import MAX_MESSAGE_BYTES

JOB = "3f1d7f3e-0a52-5a55-9a4b-3f0f6a4a9f10"
RESULT = {"title": "Mundo Cristão \ud800 \ufffe", "image_url_info": None}


@pytest.fixture
def name(environment: dict[str, str]) -> str:
    """The name of a queue that does not exist yet."""
    return f"{environment['QUEUE_NAMESPACE']}-Results"


def create(name: str, **attributes: str) -> str:
    if name.endswith(".fifo"):
        attributes["FifoQueue"] = "true"
    return aws.sqs().create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]


def received(url: str) -> list[dict[str, Any]]:
    """Receive up to ten messages from the queue."""
    everything: dict[str, Any] = {"MessageAttributeNames": ["All"], "AttributeNames": ["All"]}
    answer = aws.sqs().receive_message(QueueUrl=url, MaxNumberOfMessages=10, **everything)
    return [dict(message) for message in answer.get("Messages", [])]


def look_ups() -> list[str]:
    """The queue names that this thread looks up during the test. Workers of earlier tests may still be stopping."""
    asked: list[str] = []
    test = threading.get_ident()

    def note(params: dict[str, str], **_: object) -> None:
        if threading.get_ident() == test:
            asked.append(params["QueueName"])

    aws.sqs().meta.events.register("provide-client-params.sqs.GetQueueUrl", note)
    return asked


def test_a_result_is_redirected_with_the_jobs_id_and_without_the_secret(name: str) -> None:
    # Given a queue
    url = create(name)
    # When a result is redirected to it whose message contained a secret
    assert redirect(JOB, name, RESULT | {"postback_secret_key": "secret"})
    # Then the queue has it as raw JSON
    [message] = received(url)
    assert json.loads(message["Body"]) == RESULT
    assert message["MessageAttributes"]["job_id"]["StringValue"] == JOB
    assert message["MessageAttributes"]["job_id"]["DataType"] == "String"


def test_a_fifo_queue_takes_one_of_two_equal_jobs(name: str) -> None:
    url = create(f"{name}.fifo")

    assert [redirect(JOB, f"{name}.fifo", RESULT) for _ in range(2)] == [True, True]

    [message] = received(url)
    assert message["Attributes"]["MessageDeduplicationId"] == JOB
    assert message["Attributes"]["MessageGroupId"] == JOB


@pytest.mark.parametrize("other", ["{}s", "{}.fifo"])
def test_a_queue_with_another_name_receives_nothing(name: str, other: str) -> None:
    url = create(other.format(name))

    assert not redirect(JOB, name, RESULT)
    assert not redirect(JOB, name.lower(), RESULT)
    assert received(url) == []


def test_without_such_a_queue_nothing_fails(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="pipeline.net.notifications"):
        assert redirect(JOB, name, RESULT) is False
    assert caplog.messages == [f"job {JOB} is not redirected, because the queue {name!r} does not exist"]


@pytest.mark.parametrize(
    "impossible", ["", ".fifo", "a b", "a\n", "ä", "x" * 81, "x" * 76 + ".fifo", "http://127.0.0.1/1/q", "a.fifo.fifo"]
)
def test_an_impossible_name_is_not_looked_up(name: str, impossible: str) -> None:
    asked = look_ups()

    assert redirect(JOB, impossible, RESULT) is False
    assert asked == []


def test_the_longest_names_are_possible(name: str) -> None:
    longest = [name.ljust(80, "x"), name.ljust(75, "x") + ".fifo"]
    for each in longest:
        create(each)

    assert [redirect(JOB, each, RESULT) for each in longest] == [True, True]


class TestCache:
    def test_a_found_name_is_not_looked_up_again(self, name: str) -> None:
        create(name)
        asked = look_ups()

        assert all(redirect(JOB, name, RESULT) for _ in range(5))
        assert asked == [name]

    def test_a_missing_name_is_looked_up_again(self, name: str) -> None:
        asked = look_ups()
        assert not redirect(JOB, name, RESULT)
        create(name)
        assert redirect(JOB, name, RESULT)
        assert asked == [name, name]

    def test_it_is_emptied_after_a_number_of_look_ups(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv("CALLS_TO_UPDATE_LIST_SQS_QUEUES", "3")
        lazy.forget()
        create(name)
        asked = look_ups()

        assert all(redirect(JOB, name, RESULT) for _ in range(7))
        assert len(asked) == 3

    def test_a_deleted_queue_is_looked_up_again_once(self, name: str) -> None:
        # Given a queue that was found and then deleted
        url = create(name)
        assert redirect(JOB, name, RESULT)
        aws.sqs().delete_queue(QueueUrl=url)
        asked = look_ups()
        # When a result is redirected to it
        sent = redirect(JOB, name, RESULT)
        # Then it is looked up once more, and not found
        assert (sent, asked) == (False, [name])

    def test_a_queue_that_moved_is_found(self, name: str) -> None:
        # Given a cached URL that is stale, because the queue exists at another
        sqs = aws.sqs()
        with Stubber(sqs) as stub:
            stub.add_response("get_queue_url", {"QueueUrl": f"{sqs.meta.endpoint_url}/000000000000/{name}-gone"})
            stub.add_response("send_message", {"MessageId": "1", "MD5OfMessageBody": "1"})
            redirect(JOB, name, RESULT)
        url = create(name)
        # When a result is redirected, then the queue has it
        assert redirect(JOB, name, RESULT)
        assert len(received(url)) == 1

    def test_a_queue_that_is_found_after_its_deletion_counts_as_missing(self, name: str) -> None:
        # Given an SQS that still finds a deleted queue, which it may for a minute
        sqs = aws.sqs()
        with Stubber(sqs) as stub:
            for _ in range(2):
                stub.add_response("get_queue_url", {"QueueUrl": f"{sqs.meta.endpoint_url}/000000000000/{name}"})
                stub.add_client_error("send_message", "QueueDoesNotExist")
            # When a result is redirected to it, then no queue is found.
            assert not redirect(JOB, name, RESULT)
            stub.assert_no_pending_responses()


class TestErrors:
    def test_the_largest_message_passes_and_one_byte_more_is_too_large(self, name: str) -> None:
        url = create(name)
        room = MAX_MESSAGE_BYTES - len(f"job_idString{JOB}") - len('{"x":""}')

        assert redirect(JOB, name, {"x": "x" * room})
        with pytest.raises(PermanentError) as caught:
            redirect(JOB, name, {"x": "x" * (room + 1)})

        assert caught.value.code == "result_too_large"
        assert len(received(url)) == 1

    def test_a_queue_with_a_lower_limit(self, name: str) -> None:
        create(name, MaximumMessageSize="1024")
        with pytest.raises(PermanentError, match="result_too_large"):
            redirect(JOB, name, {"x": "x" * 1024})

    @pytest.mark.parametrize("code", ["AccessDenied", "ThrottlingException", "InternalError", "InvalidClientTokenId"])
    def test_what_sqs_refuses_is_retried(self, name: str, code: str) -> None:
        with Stubber(aws.sqs()) as stub:
            stub.add_client_error("get_queue_url", code, "no", 400)
            with pytest.raises(RetryableError) as caught:
                redirect(JOB, name, RESULT)
        assert (caught.value.code, caught.value.retry) == ("sqs_error", Retry.SERVICE)
        assert code in caught.value.message
