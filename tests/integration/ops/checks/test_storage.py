"""Checks of the bucket of staging."""

from __future__ import annotations

import pytest

from pipeline.clients import aws
from pipeline.ops.checks.run import findings
from tests.support.healthy import provision, set_environment


def test_old_versions_in_staging_must_expire(service: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def of_expiry() -> list[tuple[str, str]]:
        return [(each.row.status, each.row.message) for each in findings("upload") if each.row.subject == "expiry"]

    # Given a versioned bucket with the rule of staging as it was before old versions expired
    bucket = f"{service['S3_BUCKET']}-versioned"
    set_environment(monkeypatch, service | {"S3_BUCKET": bucket})
    provision()
    aws.s3().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    (rule,) = aws.s3().get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    del rule["NoncurrentVersionExpiration"]
    aws.s3().put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    # When it is checked, then that is reported,
    ((status, message),) = of_expiry()
    assert (status, "and their old versions" in message) == ("warn", True)
    # and `provision` repairs it.
    provision()
    assert [status for status, _ in of_expiry()] == ["ok"]
