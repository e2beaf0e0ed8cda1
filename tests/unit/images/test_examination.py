"""The answer of the sandbox about a source."""

from __future__ import annotations

import pytest

from pipeline.images.details.examination import examination_from

GOOD = {"colours": "RGB", "profile": None, "orientation": 1, "cpu_seconds": 0.1}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        GOOD | {"orientation": 9},
        GOOD | {"cpu_seconds": float("nan")},
        GOOD | {"profile": "x" * 61},
    ],
)
def test_an_answer_of_another_form_is_refused(answer):
    with pytest.raises(ValueError):  # noqa: PT011 - pydantic's
        examination_from(answer, memory=None)


def test_names_cannot_change_the_terminal():
    assert examination_from(GOOD | {"profile": "a\x1b[2J"}, memory=None).profile == "a?[2J"
