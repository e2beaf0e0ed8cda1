"""The checks as data, and their findings."""

from __future__ import annotations

import pytest

from pipeline.ops.checks.model import CheckStatus, Context
from pipeline.ops.checks.run import CHECKS, findings
from pipeline.ops.iam import GRANTS
from pipeline.settings import Settings


def test_wrong_values_are_the_only_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_KEY_S3", "hush")
    monkeypatch.setenv("S3_ACL", "open")
    monkeypatch.setenv("MONGO_URL", "mongodb://me:hush@host")
    found = [each.row for each in findings()]
    assert [(row.status, row.subject) for row in found] == [
        (CheckStatus.FAIL, "S3_ACL='open'"),
        (CheckStatus.FAIL, "MONGO_URL"),
    ]
    assert "hush" not in str(found)


@pytest.mark.parametrize(
    ("skew", "status"),
    [(-59, CheckStatus.OK), (61, CheckStatus.WARN), (-299, CheckStatus.WARN), (301, CheckStatus.FAIL)],
)
def test_the_clock_is_judged_by_its_distance(skew: float, status: CheckStatus) -> None:
    (clock,) = [each for each in CHECKS if each.name == "clock"]
    (row,) = clock.run(Context(Settings(), skews={"SQS": skew}))
    assert row.status is status


def test_every_check_has_a_name_and_belongs_to_a_process() -> None:
    assert len({(check.group, check.name) for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert check.processes
        assert check.processes <= set(GRANTS)
