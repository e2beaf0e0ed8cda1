"""The example in the README of the queue layer runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import boto3
import pytest
from dramatiq.worker import Worker

import pipeline.sqs
from pipeline.clients import aws
from tests.support.echo import counts, dead_letters
from tests.support.waiting import wait_for

README = Path(pipeline.sqs.__file__).parent / "README.md"


def test_the_example_of_the_readme_sends_settles_and_buries(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given the example, on the embedded SQS and in a namespace of this test
    (example,) = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.setattr(boto3, "client", lambda *_, **__: aws.sqs())
    scope: dict[str, Any] = {}
    exec(example.replace('"shop"', repr(environment["QUEUE_NAMESPACE"])), scope)
    broker = scope["broker"]
    # Then its delayed message waits,
    assert counts(broker, "mail") == (0, 0, 1)
    # and a worker delivers a good address, and makes a dead letter of a bad one.
    for address in ("grace@example.com", "nowhere"):
        scope["send_mail"].send(address)
    worker = Worker(broker, worker_threads=2, worker_timeout=100)
    worker.start()
    try:
        ((_, attributes),) = wait_for(lambda: dead_letters(broker, "mail_dlq"))
        wait_for(lambda: counts(broker, "mail") == (0, 0, 1))
    finally:
        worker.stop()
    assert attributes["error_code"] == "bad_address"
