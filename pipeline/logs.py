"""Log levels, and the one line that every stage writes for every job."""

from __future__ import annotations

import logging

from pipeline.settings import Settings

LOG_FORMAT = "[%(asctime)s] [%(process)d] [%(name)s] [%(levelname)s] %(message)s"

_stages = logging.getLogger("pipeline.stage")


def set_levels(settings: Settings) -> None:
    """The project's own loggers at LEVEL; libraries stay at INFO: their debug lines hold bodies and secrets."""
    for name in ("boto3", "botocore", "dramatiq", "periodiq", "pymongo", "requests", "s3transfer", "urllib3"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("pipeline", "actors"):
        logging.getLogger(name).setLevel(settings.level)


def log_stage(stage: str, job_id: str, outcome: str, detail: str = "", seconds: float | None = None) -> None:
    """`stage=fetch job=… outcome=done seconds=0.123`; where it did not go well, with the reason for people."""
    took = "" if seconds is None else f" seconds={seconds:.3f}"
    _stages.info("stage=%s job=%s outcome=%s%s%s", stage, job_id, outcome, took, detail and f" {detail[:300]}")
