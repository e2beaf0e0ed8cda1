"""`check` on a healthy set-up, and on set-ups that are each broken in one way."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from pipeline.clients import aws, lazy
from pipeline.ops.checks import mongo
from pipeline.ops.checks.run import findings
from pipeline.ops.iam import GRANTS
from tests.support.broken import BROKEN, Broken
from tests.support.checked import bad
from tests.support.healthy import provision, set_environment
from tests.support.refusing import refusing

# Healthy set-ups.


def test_a_healthy_set_up_is_all_green(service: dict[str, str]) -> None:
    found = list(findings())
    assert bad(found) == []
    passed = {finding.check for finding in found if finding.row.status == "ok"}
    assert passed - {"messages"} == {  # other tests leave messages in these queues
        *("variables", "secrets", "user agent", "networks", "answers", "queues", "input"),
        *("renditions", "staging", "expiry", "memory", "codecs", "clock", "sandbox", "job key"),
    }


def test_a_check_leaves_nothing_behind(service: dict[str, str]) -> None:
    before = aws.s3().list_objects_v2(Bucket=service["S3_BUCKET"]).get("Contents")  # earlier checks may have left some
    queue = aws.sqs().get_queue_url(QueueName=f"{service['QUEUE_NAMESPACE']}_fetch")["QueueUrl"]
    aws.sqs().send_message(QueueUrl=queue, MessageBody="{}")
    found = list(findings())
    assert bad(found) == []
    assert any(
        row.subject.endswith("_fetch") and "messages may wait" in row.message for row in (each.row for each in found)
    )
    (message,) = aws.sqs().receive_message(QueueUrl=queue, AttributeNames=["ApproximateReceiveCount"])["Messages"]
    assert (message["Body"], message["Attributes"]["ApproximateReceiveCount"]) == ("{}", "1")
    aws.sqs().delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    assert aws.s3().list_objects_v2(Bucket=service["S3_BUCKET"]).get("Contents") == before


@pytest.mark.parametrize("process", GRANTS)
def test_each_process_alone_is_green_too(process: str, service: dict[str, str]) -> None:
    assert bad(list(findings(process))) == []


# Broken set-ups.


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name.replace(" ", "-"))
def test_exactly_the_broken_part_is_reported(
    broken: Broken, service: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def mend() -> None:
        set_environment(monkeypatch, service)
        provision()

    # given
    monkeypatch.setattr(mongo, "TIMEOUT", 0.5)
    if broken.change:
        request.addfinalizer(mend)  # other tests use this set-up too
        broken.change(service)
    for name, value in broken.variables.items():
        monkeypatch.setenv(name, value.format(**service))
    date = format_datetime(datetime.now(UTC) + broken.date, usegmt=True) if broken.date else None
    with ExitStack() as servers:
        for name, rule in (("AWS_ENDPOINT_URL_SQS", broken.sqs), ("AWS_ENDPOINT_URL_S3", broken.s3)):
            if rule or date:
                url = servers.enter_context(refusing(service[name], rule or (lambda _: None), date=date))
                monkeypatch.setenv(name, url)
        lazy.forget()

        # when
        found = bad(list(findings(broken.process)))

    # then
    expected = [tuple(text.format(**service) for text in finding) for finding in broken.expected]
    assert [each[:2] for each in found] == [each[:2] for each in expected], found
    for (*_, sentences), (*_, part) in zip(found, expected, strict=True):
        assert part in sentences
        assert "secret@" not in sentences
    if broken.change:
        mend()
        assert bad(list(findings(broken.process))) == []  # `provision` repairs it, as the hint promises
