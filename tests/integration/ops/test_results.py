"""Results that are kept for some days are delivered again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from pipeline.actors import broker
from pipeline.cli.app import app
from pipeline.clients import aws, lazy, mongo
from pipeline.events import Event, Outcome
from pipeline.job import CLEAN_UP, Content, Job, Sweep
from pipeline.job_ids import input_job_id
from pipeline.monitoring.job_log.schema import RESULTS
from pipeline.monitoring.job_log.writer import JobLogWriter
from pipeline.ops import results
from pipeline.ops.provision import plan
from pipeline.recipe import Recipe, RenditionSize
from pipeline.settings import get_settings
from tests.integration.monitoring.job_log.test_reader import COVER, begin, job
from tests.support.dashboard import serving

CONTENT = Content("c3f4bf4256853026cf94fa6df2b1c366", ".png", Recipe((RenditionSize("50x50", 50, 50),), "cover"))

ID = "6fa459ea-ee8a-5ca4-894e-db77e160355e"


@pytest.fixture
def keeping(database, monkeypatch):
    """Provide queues and a job log that keeps results for a week."""
    monkeypatch.setenv("JOBS_MONGO_URL", get_settings().mongo_url.get_secret_value())
    monkeypatch.setenv("KEEP_RESULTS_DAYS", "7")
    lazy.forget()
    begin()
    for change in plan(get_settings()):
        change.apply()
    monkeypatch.setattr(broker.queues, "namespace", get_settings().queue_namespace)
    return database


def delivered(job_id):
    """Return the event of a job that was delivered: of its last delivery alone."""
    start = job(COVER, job_id=job_id)
    sources = tuple(source.published(CONTENT) for source in start.sources)
    return Event("notify", job_id, Outcome.DONE, job=replace(start, sources=sources, deliveries=("postback_url",)))


def log(*events, days=7):
    writer = JobLogWriter(batch_window=0, keep_days=days)
    writer.start()
    for event in events:
        writer(event)
    writer.stop(20)


def sent():
    """Return the jobs on the notify queue, and delete them."""
    url = aws.sqs().get_queue_url(QueueName=get_settings().full_queue_name("notify"))["QueueUrl"]
    received = aws.sqs().receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", [])
    for message in received:
        aws.sqs().delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return [Job.decode(json.loads(message["Body"])["kwargs"]["job"]) for message in received]


def deliver(*arguments, status=0):
    result = CliRunner().invoke(app, ["deliver", *arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return " ".join(result.output.split())


def test_a_delivered_result_is_kept_and_delivered_again_under_new_ids(keeping):
    # given a job that was delivered, part by part
    event = delivered(ID)
    log(event)
    (kept,) = mongo.job_database()[RESULTS].find()
    assert (kept["_id"], kept["expires"].date() > kept["expires"].today().date()) == (ID, True)
    # when it is delivered again by the beginning of its id
    assert "Nothing was sent: --yes sends it." in deliver(ID[:8])
    assert sent() == []
    assert f"as {ID}.r1" in deliver(ID[:8], "--yes")
    # then the whole result is due in notify, with its payload, for all receivers
    (again,) = sent()
    assert (again.report_id, again.deliveries, again.payload) == (f"{ID}.r1", None, event.job.payload)
    # and each time has another id
    assert f"as {ID}.r2" in deliver(ID, "--yes")
    assert [each.report_id for each in sent()] == [f"{ID}.r2"]


def test_a_result_is_found_by_the_message_id_of_its_input(keeping):
    log(delivered(input_job_id("message-1")))
    assert f"as {input_job_id('message-1')}.r1" in deliver("message-1", "--yes")


def test_an_id_that_begins_another_is_found_by_itself(keeping):
    log(delivered("order-1"), delivered("order-12"))
    assert "as order-1.r1" in deliver("order-1", "--yes")
    assert "More than one job's id begins with 'order'" in deliver("order", status=1)
    assert [each.id for each in sent()] == ["order-1"]


def test_results_of_sweeps_of_clean_ups_and_of_failed_deliveries_are_not_kept(keeping):
    sweep = Sweep("channels", "run", "group")
    swept, cleaned, failed = (job(COVER, job_id=name) for name in ("swept", "cleaned", "failed"))
    log(
        Event("notify", "swept", Outcome.DONE, job=replace(swept, sweep=sweep)),
        Event("notify", "cleaned", Outcome.DONE, job=replace(cleaned, deliveries=(CLEAN_UP,))),
        Event("notify", "failed", Outcome.GIVEN_UP, code="http_500", job=failed),
        Event("fetch", "failed", Outcome.DONE, job=failed),
    )
    assert mongo.job_database()[RESULTS].count_documents({}) == 0


def test_without_the_setting_nothing_is_kept(keeping, monkeypatch):
    log(delivered(ID), days=0)
    assert mongo.job_database()[RESULTS].count_documents({}) == 0
    assert "Results are kept for 7 days." in deliver(ID, status=1)
    monkeypatch.delenv("KEEP_RESULTS_DAYS")
    lazy.forget()
    assert "KEEP_RESULTS_DAYS is not set" in deliver(ID, status=1)
    assert not results.is_kept(ID)


def test_the_page_of_a_job_delivers_its_result_again(keeping):
    log(delivered(ID))
    log(delivered("another"), days=0)
    with serving() as site:
        assert "Deliver again" in site.text(f"/jobs/{ID}")
        assert "Deliver again" not in site.text("/jobs/another")
        assert site.post(f"/jobs/{ID}/deliver").status_code == 303
        assert [each.report_id for each in sent()] == [f"{ID}.r1"]
        assert site.post("/jobs/another/deliver").status_code == 404
