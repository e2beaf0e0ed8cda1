"""Two thousand histories, in which every invariant holds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.themes import THEMES, theme_of
from tests.simulation.world import histories, history

#: Histories of each test. A test takes a second or two, so that the workers of `make test` share them.
PORTION = 100

pytestmark = pytest.mark.unmeasured


@pytest.mark.parametrize("portion", range(20))
def test_every_invariant_holds_in_every_history(portion: int) -> None:
    violations = histories(range(portion * PORTION, (portion + 1) * PORTION))
    assert not violations, violations[0]


def test_every_invariant_holds_on_an_idle_day() -> None:
    violations = histories(range(3), "idle")
    assert not violations, violations[0]


def test_a_seed_always_gives_the_same_history() -> None:
    # Given another process, with other hashes, that lets a history of each theme happen
    themes = [part for theme in THEMES for part in ("--theme", theme)]
    command = [sys.executable, "-m", "tests.simulation", "--show", "0-1", *themes]
    environ = os.environ | {"PYTHONHASHSEED": "7"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as other:
        # When this process repeats them
        mine = [history(seed, theme) for theme in THEMES for seed in range(2)]
        printed, _ = other.communicate()
    # Then they are the same.
    assert printed.strip("\n").split("\n\n") == mine


def test_histories_differ() -> None:
    assert len({history(seed, "everything") for seed in range(20)}) == 20


def test_every_theme_has_seeds() -> None:
    assert {theme_of(seed) for seed in range(10_000)} == {*THEMES}
