"""A short run of the fuzzer of our readers of headers. `make fuzz` runs for as long as you like."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unmeasured

ROOT = Path(__file__).parents[3]


def fuzz(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("atheris", reason="it has no wheel for this Python")
    command = [sys.executable, "-W", "ignore", "-m", "tests.corpus.fuzz", str(folder), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_no_input_ends_in_an_unexpected_error(tmp_path: Path) -> None:
    # Given the small corpus, and inputs made from it, when the readers read each
    done = fuzz(tmp_path / "inputs", "-runs=50000", "-seed=1", f"-artifact_prefix={tmp_path}/")
    # Then each raises an expected error, or returns a picture no larger than its source
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(tmp_path.glob("crash-*"))
    # And the fuzzer found branches that the corpus does not reach
    assert "NEW" in done.stderr
