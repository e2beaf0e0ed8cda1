"""Two thousand histories, in which every invariant holds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.themes import THEMES
from tests.simulation.world import histories, history

#: Histories of each test. A test takes a few seconds, so that the workers of `make test` share them.
PORTION = 100

#: How many portions each theme has: 2,000 histories in all. `make simulate` runs as many as you like.
PORTIONS = {"quiet": 1, "network": 7, "crashes": 4, "outages": 1, "hops": 1, "ingest": 4, "everything": 2}


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("theme", "portion"), [(theme, portion) for theme, count in PORTIONS.items() for portion in range(count)]
)
def test_every_invariant_holds_in_every_history(theme: str, portion: int) -> None:
    violations = histories(theme, range(portion * PORTION, (portion + 1) * PORTION))
    assert not violations, violations[0]


@pytest.mark.unmeasured
def test_a_seed_always_gives_the_same_history() -> None:
    # Given another process, with other hashes, that lets histories of each theme happen
    command = [sys.executable, "-m", "tests.simulation", "--show", "0-4"]
    environ = os.environ | {"PYTHONHASHSEED": "7"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as other:
        # When this process repeats them
        mine = [history(theme, seed) for theme in THEMES for seed in range(5)]
        printed, _ = other.communicate()
    # Then they are the same.
    assert printed.strip("\n").split("\n\n") == mine


@pytest.mark.unmeasured
def test_histories_differ() -> None:
    assert len({history("everything", seed) for seed in range(20)}) == 20
