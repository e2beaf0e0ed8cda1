"""The lines that `make test` prints about coverage."""

from __future__ import annotations

from pathlib import Path

import pytest
from coverage import CoverageData

from tests.coverage import NOTHING, lines, measured

#: A module of five lines and one branch.
SOURCE = """def f(x):
    if x:
        return 1
    return 2
f(1)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in a folder without data, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COVERAGE_FILE", raising=False)
    (tmp_path / "module.py").write_text(SOURCE, encoding="utf-8")
    return str(tmp_path / "module.py")


def test_lines_and_branches_and_the_modules_below_the_limit_are_printed(module: str) -> None:
    data = CoverageData()
    data.add_arcs({module: [(-1, 1), (1, 5), (5, -1), (-1, 2), (2, 3), (3, -1)]})
    data.write()
    total, least = lines(measured())
    assert total == "Covered: 80.0 % of 5 lines, 50.0 % of 2 branches"
    assert least.split() == ["71.4", "%", "module.py"]


def test_a_run_without_data_is_reported_in_a_sentence(module: str) -> None:
    assert lines(measured()) == [NOTHING]


def test_a_run_that_measured_nothing_is_reported_in_a_sentence(module: str) -> None:
    data = CoverageData()
    data.add_lines({module: []})
    data.write()
    assert lines(measured()) == [NOTHING]
