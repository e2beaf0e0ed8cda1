"""The Procfile as systemd units, exported as in docs/deploying.md and parsed by systemd."""

from __future__ import annotations

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from honcho.environ import parse_procfile

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the units, one process of each type and two of resize."""
    folder = tmp_path_factory.mktemp("units")
    command = [sys.executable, "-m", "honcho", "export", "-e", "/dev/null", "-t", "docs/systemd", "-s", "/bin/sh"]
    options = ["-a", "image-pipeline", "-u", "images", "-c", "resize=2", "systemd", str(folder)]
    subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True)
    return folder


def test_each_process_has_a_unit_that_always_restarts(units: Path) -> None:
    types = parse_procfile((ROOT / "Procfile").read_text()).processes
    expected = {f"image-pipeline-{name}-1.service" for name in types} | {"image-pipeline-resize-2.service"}
    assert {path.name for path in units.glob("*.service")} == expected
    for path in units.glob("*.service"):
        unit = ConfigParser(interpolation=None, strict=False)
        unit.read(path)
        assert unit["Service"]["Restart"] == "always"
        assert unit["Unit"]["StartLimitIntervalSec"] == "0"  # else systemd gives up after five deaths in ten seconds
        assert unit["Service"]["WorkingDirectory"] == str(ROOT)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(units: Path) -> None:
    verified = subprocess.run(
        ["systemd-analyze", "verify", *sorted(map(str, units.iterdir()))], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
