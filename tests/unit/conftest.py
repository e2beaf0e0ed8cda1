"""Fixtures shared by unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.clients import lazy
from pipeline.settings import Settings


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset all of our variables, whatever the developer's environment contains."""
    for name in [*Settings.model_fields, "environment"]:
        monkeypatch.delenv(name.upper(), raising=False)
    lazy.forget()
    yield
    lazy.forget()
