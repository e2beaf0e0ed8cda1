"""Log levels, and the one line that every stage writes for every job."""

from __future__ import annotations

import logging

from pipeline.events import Event
from pipeline.settings import Settings

LOG_FORMAT = "[%(asctime)s] [%(process)d] [%(name)s] [%(levelname)s] %(message)s"

_stages = logging.getLogger("pipeline.stage")


def set_levels(settings: Settings) -> None:
    """The project's own loggers at LEVEL; libraries stay at INFO: their debug lines hold bodies and secrets."""
    for name in ("boto3", "botocore", "dramatiq", "periodiq", "pymongo", "requests", "s3transfer", "urllib3"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("pipeline", "actors"):
        logging.getLogger(name).setLevel(settings.level)


def log_event(event: Event) -> None:
    """`stage=fetch job=… outcome=done seconds=0.123`; where it did not go well, with the reason for people."""
    wait = f" in {event.wait:.1f} s" if event.wait else ""
    reason = f" {event.code}: {event.message[:300]}" if event.code else ""
    _stages.info(
        "stage=%s job=%s outcome=%s seconds=%.3f%s%s",
        event.stage,
        event.job_id,
        event.verdict,
        event.seconds,
        wait,
        reason,
    )
