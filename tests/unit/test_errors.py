"""The table of error codes, and the page that shows it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from pipeline.errors import CODES, HTTP_REFUSAL, HTTP_TROUBLE, CodeFacts, Ending, Name, facts_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"


def test_every_code_has_facts() -> None:
    assert set(get_args(Name)) == CODES.keys()


def test_every_code_is_used() -> None:
    paths = [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("actors/*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    words = Counter(re.findall(r'"(\w+)"', text))
    # The table names each code twice. `aws_errors("s3", …)` makes `s3_error`.
    assert {code for code in CODES if words[code] < 3 and code.removesuffix("_error") not in words} == set()


@pytest.mark.parametrize(
    ("code", "facts"),
    [
        ("http_404", HTTP_REFUSAL),
        ("http_302", HTTP_REFUSAL),
        ("http_408", HTTP_TROUBLE),
        ("http_425", HTTP_TROUBLE),
        ("http_429", HTTP_TROUBLE),
        ("http_500", HTTP_TROUBLE),
        ("http_599", HTTP_TROUBLE),
        ("http_600", HTTP_REFUSAL),
        ("http_99999999", HTTP_REFUSAL),
        ("too_large", CODES["too_large"]),
    ],
)
def test_the_facts_of_a_code(code: str, facts: CodeFacts) -> None:
    assert facts_of(code) is facts


@pytest.mark.parametrize("code", ["", "http_", "http_4x4", "from_a_newer_release"])
def test_unknown_codes_have_facts_too(code: str) -> None:
    assert facts_of(code).ending is Ending.PERMANENT


def test_the_page_shows_the_table() -> None:
    rows = [row("http_<status>", HTTP_TROUBLE), row("http_<status>", HTTP_REFUSAL)]
    rows += [row(code, facts) for code, facts in CODES.items()]
    expected = "\n".join(rows)
    assert expected in PAGE.read_text(encoding="utf-8"), f"docs/errors.md needs these rows:\n{expected}"


def row(code: str, facts: CodeFacts) -> str:
    return f"| `{code}` | {facts.stages} | {facts.meaning} | {facts.fault} | {facts.ending} |"
