"""Fixtures shared by unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.clients import lazy
from pipeline.errors import (
    HTTP_REFUSAL,
    Code,
    Dropped,
    Ending,
    PermanentError,
    PipelineError,
    Rejected,
    RetryableError,
    Snoozed,
    facts_of,
)
from pipeline.settings import Settings

#: The ending of an attempt by the class of its error. A class is looked up before its parents.
ENDINGS = {
    Dropped: Ending.DROPPED,
    Rejected: Ending.REJECTED,
    PermanentError: Ending.PERMANENT,
    Snoozed: Ending.SNOOZED,
    RetryableError: Ending.RETRIED,
}


@pytest.fixture(scope="session", autouse=True)
def every_error_ends_as_the_table_says() -> Iterator[None]:
    """Compare the class of each error that any test raises with the table of codes, which documents its ending."""
    others: set[tuple[str, str]] = set()
    create = PipelineError.__init__

    def compare(error: PipelineError, code: Code, message: str) -> None:
        create(error, code, message)
        facts = facts_of(code)
        ending = next(ending for kind, ending in ENDINGS.items() if isinstance(error, kind))
        if ending is not facts.ending:
            others.add((code, type(error).__name__))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PipelineError, "__init__", compare)
        yield
    # The table's row says that postbacks are retried after a refusal.
    refusals = {(code, kind) for code, kind in others if facts_of(code) is HTTP_REFUSAL and kind == "RetryableError"}
    assert others == refusals


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset all of our variables, whatever the developer's environment contains."""
    for name in [*Settings.model_fields, "environment"]:
        monkeypatch.delenv(name.upper(), raising=False)
    lazy.forget()
    yield
    lazy.forget()


@pytest.fixture
def local_staging(no_variables: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stage in this test's folder, with the defaults of all other settings."""
    monkeypatch.setenv("STAGING_URL", tmp_path.as_uri())
    lazy.forget()
