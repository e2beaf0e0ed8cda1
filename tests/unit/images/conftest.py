"""Sandboxes of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.images import sandbox
from tests.support.sandboxed import HOOK


@pytest.fixture
def own_child() -> Iterator[None]:
    """Start a child for this test, and end it afterwards."""
    sandbox._SANDBOX.close()
    yield
    sandbox._SANDBOX.close()


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a decoder that runs Python code."""
    monkeypatch.setattr(sandbox, "CHILD", HOOK)
