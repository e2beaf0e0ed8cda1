"""The command `image-pipeline sweep recheck`."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from pipeline.cli.sweep import app
from pipeline.clients import lazy
from pipeline.events import RecheckOutcome
from pipeline.sweeps import sources
from pipeline.sweeps.sources import SourceCheck


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["recheck", *arguments], env={"COLUMNS": "200"})


def test_without_a_period_nothing_can_be_due(database):
    done = invoke()
    assert done.exit_code == 2
    assert "RECHECK_DAYS is 0" in done.output


def test_a_dry_run_counts_covers_and_asks_for_none(database):
    database.episodes.insert_many(
        {"itunes_image": url, "last_itunes_image": url} for url in ("http://h/1?secret", "http://h/2") for _ in range(3)
    )
    done = invoke("--all", "--dry-run")
    assert done.exit_code == 0
    assert "2 covers would be asked for" in done.output
    assert "secret" not in done.output
    assert invoke("channels", "--all", "--dry-run").output.startswith("0 covers")
    assert database.image_pipeline_sweeps.count_documents({}) == 0


def test_a_dry_run_over_outdated_covers_prints_their_cost(database, monkeypatch: pytest.MonkeyPatch):
    # given three covers with pictures of other sizes, one of them also in another folder, and one without pictures
    monkeypatch.setenv("RENDITIONS", "50x50,80x80,100x100")
    monkeypatch.setenv("STAGING_URL", "s3://images-ch/pipeline-staging/")
    lazy.forget()
    pictures = {"itunes_image_extra_images": {"50x50": {"url": f"https://s3/images-resized/A/{'0' * 32}_50x50.png"}}}
    database.channels.insert_one({"_id": 7, "title": "Seven"})
    documents = [{"itunes_image": f"http://h/{n}", "last_itunes_image": f"http://h/{n}", **pictures} for n in range(3)]
    bare = {"itunes_image": "http://h/3", "last_itunes_image": "http://h/3"}
    database.episodes.insert_many([*documents, {**documents[0], "channel_id": 7}, bare])
    # then their number and cost are shown, and nothing has begun
    output = " ".join(invoke("--outdated", "--dry-run").output.split())
    assert "3 covers would be asked for, of 3 that are outdated" in output
    assert "20 PUT and 12 GET requests to S3" in output
    assert "8 requests to SQS: $0.00" in output
    limited = invoke("--outdated", "--dry-run", "--limit", "2").output
    assert "2 covers would be asked for, of 3" in limited
    assert "15 PUT and 9 GET" in limited
    assert database.image_pipeline_sweeps.count_documents({}) == 0
    assert invoke("channels", "--outdated", "--dry-run").output.startswith("0 covers")


def test_failing_sources_are_listed(database):
    sources.record(SourceCheck("http://h/1?secret", RecheckOutcome.FAILED, error="http_404"))
    done = invoke("--failing")
    assert "http_404" in done.output
    assert "secret" not in done.output
    assert "0 sources fail" in invoke("--failing", "--days", "1").output


def test_nothing_is_due_before_its_time(database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RECHECK_DAYS", "30")
    lazy.forget()
    database.episodes.insert_one({"itunes_image": "http://h/1", "last_itunes_image": "http://h/1"})
    sources.record(SourceCheck("http://h/1", RecheckOutcome.NOT_MODIFIED))
    assert "0 covers would be asked for" in invoke("--dry-run").output
