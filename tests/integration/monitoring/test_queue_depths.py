"""The depths of all queues on a real SQS endpoint."""

from __future__ import annotations

import pytest

from pipeline.clients import aws, lazy
from pipeline.errors import RetryableError
from pipeline.monitoring.queue_depths import Depth, depths, queue_names
from pipeline.ops.provision import plan
from pipeline.settings import get_settings


@pytest.fixture
def provisioned(environment, monkeypatch):
    """Create all queues and an input queue; returns their namespace."""
    for change in plan(get_settings()):
        change.apply()
    name = f"{environment['QUEUE_NAMESPACE']}-input"
    monkeypatch.setenv("QUEUE_URL", aws.sqs().create_queue(QueueName=name)["QueueUrl"])
    lazy.forget()
    return environment["QUEUE_NAMESPACE"]


def url_of(name):
    return aws.sqs().get_queue_url(QueueName=name)["QueueUrl"]


def send(name, count, **options):
    for _ in range(count):
        aws.sqs().send_message(QueueUrl=url_of(name), MessageBody="{}", **options)


def test_each_queue_has_a_row_with_waiting_in_flight_and_delayed_messages(provisioned):
    # given messages in four queues, among them a received, a delayed and a dead one
    send(f"{provisioned}_fetch", 3)
    aws.sqs().receive_message(QueueUrl=url_of(f"{provisioned}_fetch"))
    send(f"{provisioned}_resize_bulk", 1, DelaySeconds=600)
    send(f"{provisioned}_upload_dlq", 1)
    send(f"{provisioned}-input", 1)
    # when the depths are read
    found = depths()
    # then every queue has a row, in the order of the stages
    assert [depth.queue for depth in found] == queue_names()
    assert [depth.stage for depth in found[:6]] == ["ingest", "ingest", "fetch", "fetch", "fetch", "fetch"]
    assert [depth.lane for depth in found[:6]] == ["live", "dead", "live", "bulk", "quarantine", "dead"]
    assert {depth for depth in found if depth.waiting or depth.in_flight or depth.delayed} == {
        Depth(f"{provisioned}-input", "ingest", "live", 1, 0, 0),
        Depth(f"{provisioned}_fetch", "fetch", "live", 2, 1, 0),
        Depth(f"{provisioned}_resize_bulk", "resize", "bulk", 0, 0, 1),
        Depth(f"{provisioned}_upload_dlq", "upload", "dead", 1, 0, 0),
    }


def test_a_deleted_queue_has_no_row(provisioned):
    assert len(depths()) == 24
    aws.sqs().delete_queue(QueueUrl=url_of(f"{provisioned}_notify_bulk"))
    assert {*queue_names()} - {depth.queue for depth in depths()} == {f"{provisioned}_notify_bulk"}


def test_without_an_input_queue_there_is_no_row_for_it(environment):
    assert not any(name.endswith("input") for name in queue_names())
    assert depths() == []


def test_an_error_of_sqs_is_reported(environment, monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    lazy.forget()
    with pytest.raises(RetryableError, match="Could not read the depths of the queues"):
        depths()
