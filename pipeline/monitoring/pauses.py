"""Paused stages: an operator stops a stage from taking messages, and lets it go on.

The collection `image_pipeline_pauses` in the job log's database has one document per paused stage, and one per order of
`pipeline.monitoring.orders`. Each process reads it with every heartbeat. While the database is down, each process stays
as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline.clients import mongo
from pipeline.stages import GIANTS, QUARANTINE, STAGES, SWEEP_QUEUES

PAUSES = "image_pipeline_pauses"

#: The stages that can be paused, as `stage_name` returns them.
PAUSABLE = ("ingest", *(stage.name for stage in STAGES), GIANTS, QUARANTINE, *SWEEP_QUEUES)


def pause(stage: str) -> None:
    """Let no process take more messages of a stage.

    Raises:
        ValueError: the stage does not exist.
        SettingsError: JOBS_MONGO_URL is not set.
        RetryableError: MongoDB cannot be reached.
    """
    _check(stage)
    with mongo.mongo_errors(f"pause {stage}"):
        at = {"$setOnInsert": {"at": datetime.now(UTC)}}
        mongo.job_database()[PAUSES].update_one({"_id": stage}, at, upsert=True)


def resume(stage: str) -> None:
    """Let processes take messages of a stage again. The errors are those of `pause`."""
    _check(stage)
    with mongo.mongo_errors(f"resume {stage}"):
        mongo.job_database()[PAUSES].delete_one({"_id": stage})


def paused() -> dict[str, datetime]:
    """Return since when each paused stage has been paused.

    Raises:
        SettingsError: JOBS_MONGO_URL is not set.
        RetryableError: MongoDB cannot be reached.
    """
    with mongo.mongo_errors("read the job log"):
        return paused_in(mongo.job_database()[PAUSES].find({"_id": {"$in": list(PAUSABLE)}}))


def paused_in(found: Iterable[Mapping[str, Any]]) -> dict[str, datetime]:
    """Return since when each paused stage has been paused, from documents of the collection."""
    return {each["_id"]: each["at"] for each in found if each["_id"] in PAUSABLE}


def _check(stage: str) -> None:
    if stage not in PAUSABLE:
        raise ValueError(f"{stage!r} is not a stage: write one of {', '.join(PAUSABLE)}")
