"""Jobs of the unit tests, and parts of jobs."""

from __future__ import annotations

from pipeline.errors import PermanentError, RetryableError
from pipeline.job import Content, Job, Sweep
from pipeline.recipe import Recipe, parse_rendition
from pipeline.settings import get_settings

COVER = "https://feeds.example/cover.jpg"
OTHER = "https://feeds.example/other.png"
CONTENT = Content("0" * 32, ".jpeg", Recipe((parse_rendition("50x50"),)))
GONE = PermanentError("http_404", "Gone.")
DOWN = RetryableError("http_503", "Down.")


def accepted() -> Job:
    """Return a new job of one source."""
    payload = {"image_url": COVER, "postback_url": "https://receiver.example/hook"}
    return Job.accept(payload, job_id="1", settings=get_settings(), stage_payload=lambda _: "")


def a_sweeps_job() -> Job:
    """Return a sweep's new job of two sources."""
    sweep = Sweep("channels", "run-1", "cover/run-1/x")
    return Job.of_sweep(sweep, job_id="job-1", folder="F", urls={"image_url": COVER, "itunes_image": OTHER})
