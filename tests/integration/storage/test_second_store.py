"""`provision` and `check` on a store that is not S3."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.clients import lazy
from pipeline.ops.checks.run import findings
from pipeline.ops.provision import UnsupportedChange, plan
from pipeline.settings import get_settings
from pipeline.storage.stores import NOT_IMPLEMENTED
from tests.support.refusing import Refusal, refusing


@pytest.fixture(autouse=True)
def _without_acls(on_rclone: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_ACL", "none")
    lazy.forget()


def lifecycle_change() -> str:
    """Return how the one change that is not a queue ends; empty if it was made."""
    (change,) = [each for each in plan(get_settings(), create_bucket=True) if "queue" not in each.message]
    try:
        change.apply()
    except UnsupportedChange as unsupported:
        return str(unsupported)
    return ""


@pytest.mark.parametrize("code", sorted(NOT_IMPLEMENTED - {"BucketAlreadyExists", "501", "405"}))
def test_a_store_that_cannot_even_read_the_rules_is_no_obstacle(
    on_rclone: dict[str, str], monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    # Given a store that implements neither reading nor writing lifecycle rules
    with refusing(
        on_rclone["AWS_ENDPOINT_URL_S3"], lambda request: Refusal(501, code) if "lifecycle" in request.path else None
    ) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        lazy.forget()
        # Then provision reaches that change, and names what a person must do.
        assert "by the store's own means" in lifecycle_change()


def test_check_uploads_reads_and_deletes_there(on_rclone: dict[str, str]) -> None:
    found = [finding for finding in findings("upload") if finding.group == "S3"]
    assert [(each.check, each.row.subject) for each in found if each.row.status == "ok"] == [
        ("answers", f"bucket {on_rclone['S3_BUCKET']}"),
        ("renditions", "renditions"),
        ("staging", "staging"),
    ]
    # rclone asks for a signature of everyone, and has no lifecycle rules.
    assert [(each.row.status.value, each.row.subject) for each in found if each.row.status != "ok"] == [
        ("warn", "public URL"),
        ("warn", "expiry"),
    ]


def test_the_command_prints_what_is_left_to_a_person_and_goes_on(on_rclone: dict[str, str]) -> None:
    done = CliRunner().invoke(app, ["provision"])
    assert done.exit_code == 0
    assert "done  create queue" in done.output
    assert "by hand" in done.output
    by_hand = f"s3://{on_rclone['S3_BUCKET']}/pipeline-staging/ after 14 days by the store's own means"
    assert by_hand in " ".join(done.output.split())
