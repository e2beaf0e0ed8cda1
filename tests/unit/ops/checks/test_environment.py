"""Variables that look like settings but are not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.clients import lazy
from pipeline.ops.checks.model import CheckStatus
from tests.support.checked import rows, statuses


def test_a_variable_with_a_typing_error_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTBACK_SECRETKEY", "hush")
    found = rows("variables")
    assert statuses(found) == [(CheckStatus.WARN, "POSTBACK_SECRETKEY")]
    assert "POSTBACK_SECRET_KEY is" in found[-1].message
    assert "hush" not in str(found)


def test_a_region_without_effect_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert statuses(rows("variables")) == [(CheckStatus.WARN, "AWS_DEFAULT_REGION")]
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    lazy.forget()
    assert statuses(rows("variables")) == []


def test_a_file_that_was_not_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(
        "export S3_BUCKET='pictures'\nQUEUE_URL=https://x/y\n# LEVEL=INFO\nOTHER=1\nMONGO_URL=''\n"
    )
    found = rows("variables")
    assert statuses(found) == [(CheckStatus.WARN, ".env")]
    assert found[-1].message.startswith("QUEUE_URL, S3_BUCKET of this folder's .env")
    monkeypatch.setenv("S3_BUCKET", "pictures")
    monkeypatch.setenv("QUEUE_URL", "https://x/y")
    assert statuses(rows("variables")) == []
