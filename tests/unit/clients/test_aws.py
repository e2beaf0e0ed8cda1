"""Clients: one of each kind for all threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from botocore.exceptions import ConnectionClosedError

from pipeline.clients import aws, lazy
from pipeline.sqs.queues import LONG_POLL
from tests.support.untrusted_servers import Behaviour, Remote, Request, answer, remote
from tests.unit.deploy.processes import commands

URL = "https://sqs.us-east-2.amazonaws.com/123456789012/work"


@contextmanager
def sqs_that(behave: Behaviour, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    """Run a server in place of SQS until the end of the block."""
    with remote(behave) as server:
        variables = {"AWS_REGION": "us-east-2", "AWS_ENDPOINT_URL_SQS": server.url("")}
        for name, value in {**variables, "AWS_ACCESS_KEY_SQS": "key", "AWS_SECRET_KEY_SQS": "secret"}.items():
            monkeypatch.setenv(name, value)
        lazy.forget()
        yield server
    lazy.forget()


def test_concurrent_first_calls_share_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given that no thread has asked yet
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    lazy.forget()
    together = threading.Barrier(8)

    def ask(_: int) -> int:
        together.wait()
        return id(aws.sqs())

    # When eight threads ask at once, then they get the same client, until it is forgotten
    with ThreadPoolExecutor(8) as pool:
        asked = set(pool.map(ask, range(8)))
    assert asked == {id(aws.sqs())}
    before = aws.sqs()
    lazy.forget()
    assert aws.sqs() is not before
    lazy.forget()


def test_a_send_whose_answer_is_lost_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an SQS that answers once, and then ends the connection after each request
    answers = iter([answer(200, b"{}", keep=True)])
    with sqs_that(lambda _, __: [next(answers, b"")], monkeypatch) as server:
        entries = [{"Id": "0", "MessageBody": "body"}]
        aws.sqs().send_message_batch(QueueUrl=URL, Entries=entries)  # type: ignore[arg-type]
        # When a batch is sent on the open connection, and another on a new one
        for _ in range(2):
            with pytest.raises(ConnectionClosedError):
                aws.sqs().send_message_batch(QueueUrl=URL, Entries=entries)  # type: ignore[arg-type]
        # Then each reached SQS once
        assert len(server.requests) == 3


def test_the_longest_poll_ends_before_the_read_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    with sqs_that(lambda _, __: [], monkeypatch):
        assert aws.sqs().meta.config.read_timeout > LONG_POLL


def test_all_threads_of_a_process_keep_their_connections_to_sqs(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given as many threads as any process has, with two more for each of its queues: one receives, one keeps leases
    threads = max(threads_asking_sqs(command) for command in commands().values())
    together = threading.Barrier(threads)

    def behave(_: Remote, __: Request) -> list[bytes]:
        together.wait()
        return [answer(200, b"{}", keep=True)]

    with sqs_that(behave, monkeypatch) as server, ThreadPoolExecutor(threads) as pool:
        # When all have a request under way at the same time, twice
        for _ in range(2):
            list(pool.map(lambda _: aws.sqs().receive_message(QueueUrl=URL), range(threads)))
        # Then the second requests used the connections of the first
        assert (len(server.requests), server.connections) == (2 * threads, threads)


def threads_asking_sqs(command: list[str]) -> int:
    if "--queues" not in command:
        return 0
    return int(command[command.index("--threads") + 1]) + 2 * len(command[command.index("--queues") + 1 :])
