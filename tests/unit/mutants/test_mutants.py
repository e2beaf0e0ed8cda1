"""The configuration of `make mutants` matches the code: its files and the excluded lines exist."""

from __future__ import annotations

from pathlib import Path

from tests.mutants.__main__ import Source
from tests.mutants.areas import FILES, equivalents

ROOT = Path(__file__).parents[3]


def test_every_file_is_there() -> None:
    assert [file for file in FILES if not (ROOT / file).is_file()] == []


def test_every_excluded_mutant_has_an_existing_line_and_a_reason() -> None:
    for (file, was, becomes), why in equivalents().items():
        lines = {line.strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()}
        assert was in lines, f"{file} has no line {was}"
        assert was != becomes
        assert why.endswith(".")


def test_a_mutant_that_only_shortens_a_file_is_drawn() -> None:
    # Given a file whose last statement is the last case of a match; one mutation takes the case out
    source = Source("pipeline/sqs/settlement.py")
    # When the mutants are made, then that one is among them
    mutants = filter(None, map(source.mutant, source.mutations))
    assert "" in {mutant.becomes for mutant in mutants}
