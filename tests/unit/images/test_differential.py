"""The differential test fails for each difference without a reason, and for each reason without a difference."""

from __future__ import annotations

import pytest

from tests.corpus.differential.compare import Comparison, Explanation, Rendered, explanations, stale, unexplained

KNOWN = [Explanation("SDL shows it upside down.", ("bmp/*.bmp",))]


@pytest.mark.parametrize(
    ("found", "by", "differs"),
    [
        (Comparison("a.png", "PNG", decibels=22.0), Rendered.BOTH, False),
        (Comparison("a.png", "PNG", decibels=21.9), Rendered.BOTH, True),
        (Comparison("a.png", "PNG", error="no decoder"), Rendered.OURS, False),
        (Comparison("a.png", "PNG", code="broken_image"), Rendered.THEIRS, True),
        (Comparison("a.png", "PNG", code="not_an_image"), Rendered.THEIRS, True),
        (Comparison("a.png", "PNG", code="unsupported_format"), Rendered.THEIRS, False),
        (Comparison("a.png", "PNG", code="too_large"), Rendered.THEIRS, False),
        (Comparison("a.png", "PNG", code="broken_image", error="damaged"), Rendered.NONE, False),
    ],
)
def test_files_differ_if_their_pictures_do_or_if_only_the_decoders_find_one(
    found: Comparison, by: Rendered, differs: bool
) -> None:
    assert (found.by, found.differs) == (by, differs)


def test_a_difference_needs_a_reason_and_the_worst_is_named_first() -> None:
    results = [
        Comparison("bmp/a.bmp", "BMP", decibels=9.3),
        Comparison("b.gif", "GIF", decibels=12.0),
        Comparison("c.gif", "GIF", decibels=8.0),
        Comparison("d.gif", "GIF", decibels=50.0),
    ]
    assert [each.name for each in unexplained(results, KNOWN)] == ["c.gif", "b.gif"]


def test_a_reason_that_no_difference_needs_is_named() -> None:
    assert stale([Comparison("bmp/a.bmp", "BMP", decibels=9.3)], KNOWN) == []
    assert stale([Comparison("bmp/a.bmp", "BMP", decibels=40.0)], KNOWN) == ["bmp/*.bmp"]


def test_every_explanation_has_a_reason_and_no_file_has_two() -> None:
    known = explanations()
    assert all(each.reason.endswith(".") and each.files for each in known)
    patterns = [pattern for each in known for pattern in each.files]
    assert len(patterns) == len(set(patterns))
