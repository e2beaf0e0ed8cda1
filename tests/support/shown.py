"""Jobs, dead letters and texts that tests let a dashboard show."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from pipeline.clients import aws, mongo
from pipeline.events import Event, Outcome
from pipeline.job import Content, Job, Source
from pipeline.monitoring.job_log.writer import JOBS, MINUTES, counts, entry_of, updates
from pipeline.recipe import Recipe, RenditionSize
from pipeline.settings import get_settings
from tests.support.dashboard import Site
from tests.support.waiting import wait_for

#: Texts from untrusted titles, URLs and error messages.
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "{{ 1234567 * 7 }}{% raw %}",
    "</title></textarea></style>-->",
]

CONTENT = Content(
    "c3f4bf4256853026cf94fa6df2b1c366",
    ".png",
    Recipe((RenditionSize("50x50", 50, 50), RenditionSize("250X250", 250, 250)), "cover"),
)


def queue_url(name: str) -> str:
    return aws.sqs().get_queue_url(QueueName=get_settings().full_queue_name(name))["QueueUrl"]


def log(*events: Event) -> None:
    """Write events to the job log."""
    entries = [entry_of(event) for event in events]
    mongo.job_database()[JOBS].bulk_write(updates(entries), ordered=False)
    mongo.job_database()[MINUTES].bulk_write(counts(entries), ordered=False)


def log_copies(job_id: str, number: int) -> None:
    """Write copies of a job of the job log: `copy-1`, `copy-2` and so on, each a second older than the one before."""
    jobs = mongo.job_database()[JOBS]
    original = jobs.find_one({"_id": job_id})
    assert original
    times = [name for name in ("began", "failed") if name in original]
    copies = range(1, number + 1)
    jobs.insert_many(
        original | {"_id": f"copy-{n}"} | {name: original[name] - timedelta(seconds=n) for name in times}
        for n in copies
    )


def bury(job: Job, code: str, message: str) -> None:
    """Add a dead letter to fetch, as the workers do."""
    from pipeline.actors import broker, fetch_image
    from pipeline.sqs.wire import Reason

    broker.bury("fetch", fetch_image.message_of(job).encode().decode(), Reason(code, message, stage="fetch"))


def a_job(url: str = "https://example.org/cover.png", job_id: str = "job-1", folder: str = "SHOW") -> Job:
    payload = {"image_url": url, "postback_url": "https://example.org/hook?token=hush", "title": HOSTILE[0]}
    return Job(job_id, folder, (Source(url, ("image_url",)),), payload=payload)


def done(job: Job) -> list[Event]:
    published = replace(job, sources=tuple(source.published(CONTENT) for source in job.sources))
    return [Event("fetch", job.id, Outcome.DONE, job=published), Event("notify", job.id, Outcome.DONE, job=published)]


def wait_for_text(site: Site, path: str, *wanted: str) -> str:
    """Wait until a page contains all of `wanted`; returns its text."""
    return wait_for(lambda: (text := site.text(path)) and all(each in text for each in wanted) and text)
