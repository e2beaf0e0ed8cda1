"""Checks of the databases of sweeps and of the job log."""

from __future__ import annotations

import os
from typing import Any

import pytest
from pymongo.database import Database

from pipeline.clients import lazy
from pipeline.ops.checks.run import findings
from tests.support.checked import bad
from tests.support.healthy import provision


@pytest.fixture
def aws_of_database(database: Database[dict[str, Any]]) -> None:
    provision()


def test_a_job_log_wants_its_indexes(database: Database[dict[str, Any]], aws_of_database: None, monkeypatch) -> None:
    def of_the_job_log() -> list[tuple[str, str]]:
        return [(each.row.status, each.row.message) for each in findings("operator") if each.group == "Job log"]

    monkeypatch.setenv("JOBS_MONGO_URL", os.environ["MONGO_URL"])
    lazy.forget()
    ((status, says),) = of_the_job_log()
    assert status == "warn"
    assert "updated of image_pipeline_jobs" in says
    provision()
    assert [status for status, _ in of_the_job_log()] == ["ok"]


def test_a_database_is_tried_and_left_as_it_is(database: Database[dict[str, Any]], aws_of_database: None) -> None:
    database["channels"].insert_one({"_id": 1, "title": "A"})
    found = list(findings("sweep"))
    assert bad(found) == []
    assert {each.row.subject for each in found if each.group == "MongoDB" and each.row.status == "ok"} == {
        *("MongoDB", "channels", "image_pipeline_sweeps", "image_pipeline_sources")
    }
    assert list(database["channels"].find()) == [{"_id": 1, "title": "A"}]
    assert database["episodes"].count_documents({}) == 0


def test_missing_indexes_are_named(database: Database[dict[str, Any]]) -> None:
    assert ("warn", "image_pipeline_sweeps") in [each[:2] for each in bad(list(findings("sweep")))]
