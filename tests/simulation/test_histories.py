"""Ten thousand histories, in which every invariant holds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.themes import THEMES
from tests.simulation.world import histories, history

#: Histories of each test. A test takes a few seconds, so that the workers of `make test` share them.
PORTION = 500

#: How many portions each theme has: 10,000 histories in all.
PORTIONS = {"quiet": 1, "network": 7, "crashes": 4, "outages": 1, "hops": 1, "ingest": 4, "everything": 2}

#: Histories of each theme whose coverage is measured. That takes three times as long.
MEASURED = 40


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("theme", "portion"), [(theme, portion) for theme, count in PORTIONS.items() for portion in range(count)]
)
def test_every_invariant_holds_in_every_history(theme: str, portion: int) -> None:
    violations = histories(theme, range(portion * PORTION, (portion + 1) * PORTION))
    assert not violations, violations[0]


@pytest.mark.parametrize("theme", THEMES)
def test_every_invariant_holds_while_coverage_is_measured(theme: str) -> None:
    violations = histories(theme, range(MEASURED))
    assert not violations, violations[0]


@pytest.mark.unmeasured
@pytest.mark.parametrize("theme", THEMES)
def test_a_seed_always_gives_the_same_history(theme: str) -> None:
    # Given histories of this process
    seeds = range(5)
    mine = [history(theme, seed) for seed in seeds]
    # When another process, with other hashes, repeats them
    code = f"from tests.simulation.world import history; print(*(history({theme!r}, s) for s in {seeds!r}), sep='|')"
    environ = os.environ | {"PYTHONHASHSEED": "7"}
    printed = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    # Then they are the same.
    assert printed.stdout.strip("\n").split("|") == mine


def test_histories_differ() -> None:
    assert len({history("everything", seed) for seed in range(20)}) == 20
