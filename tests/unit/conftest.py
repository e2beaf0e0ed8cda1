"""What several unit tests begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.clients import lazy
from pipeline.settings import Settings


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of ours is set, whatever the developer's environment holds."""
    for name in [*Settings.model_fields, "environment"]:
        monkeypatch.delenv(name.upper(), raising=False)
    lazy.forget()
    yield
    lazy.forget()
