"""Advice on failures."""

from __future__ import annotations

import pytest

from pipeline.ops.advice import is_permanent


@pytest.mark.parametrize(
    ("stage", "code", "permanent"),
    [
        *(("fetch", code, True) for code in ("http_404", "http_410", "broken_image", "too_large", "http_301")),
        *(("fetch", code, False) for code in ("timeout", "http_503", "http_429", "blocked_address", "internal_error")),
        ("notify", "http_404", False),
    ],
)
def test_only_failures_of_the_source_are_permanent(stage: str, code: str, permanent: bool) -> None:
    assert is_permanent(stage, code) is permanent
