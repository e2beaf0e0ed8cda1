"""Checks of MongoDB that need no server."""

from __future__ import annotations

import pytest
from pymongo.errors import OperationFailure, PyMongoError, ServerSelectionTimeoutError

from pipeline.ops.checks import mongo
from pipeline.ops.checks.model import CheckStatus, Context
from pipeline.settings import Settings


@pytest.mark.parametrize(("days", "status"), [("0", "skip"), ("7", "warn")])
def test_rechecks_without_a_database_are_named(days: str, status: str) -> None:
    (row,) = mongo._answers(Context(Settings(recheck_days=int(days)), None))
    assert row.status == status


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OperationFailure("secret", 18), "does not know the user or the password"),
        (OperationFailure("secret", 8000), "does not know the user or the password"),
        (OperationFailure("secret", 13), "The user may not update it."),
        (OperationFailure("secret", 91), "MongoDB returned OperationFailure 91"),
        (ServerSelectionTimeoutError("secret"), "does not answer"),
    ],
)
def test_each_mongodb_refusal_is_named_without_its_text(error: PyMongoError, part: str) -> None:
    row = mongo._failed("channels", "update it", error)
    assert row.status is CheckStatus.FAIL
    assert part in row.message
    assert "secret" not in f"{row.message} {row.hint}"
