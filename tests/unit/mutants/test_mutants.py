"""The configuration of `make mutants` matches the code: its files and the excluded lines exist."""

from __future__ import annotations

from pathlib import Path

import libcst as cst
import pytest
from mutmut.mutation.file_mutation import create_mutations, deep_replace

from tests.mutants.areas import FILES, equivalents, is_left_out

ROOT = Path(__file__).parents[3]


def test_every_file_is_there() -> None:
    assert [file for file in FILES if not (ROOT / file).is_file()] == []


def test_every_excluded_mutant_has_an_existing_line_and_a_reason() -> None:
    for (file, was, becomes), why in equivalents().items():
        lines = {line.strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()}
        assert was in lines, f"{file} has no line {was}"
        assert was != becomes
        assert why.endswith(".")


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        ("Error('code', 'One sentence.')", {"Error(None, 'One sentence.')", "Error('One sentence.')"}),
        ("Error('code', f'{name} is away.')", {"Error(None, f'{name} is away.')", "Error(f'{name} is away.')"}),
        ("logger.info('x', name)", set()),
        ("dict(zip(a, b, strict=True))", {"dict(zip(a, None, strict=True))", "dict(zip(b, strict=True))"}),
    ],
)
def test_texts_and_internal_assertions_are_left_out(code: str, kept: set[str]) -> None:
    # Given the changes that mutmut would make in a line
    module, mutations, _, _ = create_mutations("x.py", f"def f():\n    {code}\n")
    nodes: list[cst.CSTNode] = [module]
    parents: dict[cst.CSTNode, cst.CSTNode] = {}
    for node in nodes:
        parents |= dict.fromkeys(node.children, node)
        nodes += node.children
    # When the rules are applied
    pairs = [(each.original_node, each.mutated_node) for each in mutations]
    left = [pair for pair in pairs if not is_left_out(*pair, parents)]
    # Then changes of codes and values are kept, and changes of texts are left out.
    lines = {deep_replace(module, *pair).code.splitlines()[1].strip() for pair in left}
    assert kept <= lines
    assert len(left) < len(pairs)
    assert bool(left) == bool(kept)
