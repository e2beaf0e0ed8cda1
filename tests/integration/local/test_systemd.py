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


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


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


def test_each_process_reads_its_own_variables_and_has_a_limit_on_memory(units: Path) -> None:
    for path in units.glob("*.service"):
        lines = path.read_text().splitlines()
        kind = path.name.removeprefix("image-pipeline-").rpartition("-")[0]
        files = [line.partition("=")[2] for line in lines if line.startswith("EnvironmentFile=")]
        assert files == ["/etc/image-pipeline/common.env", f"-/etc/image-pipeline/{kind}.env"]
        assert sum(line.startswith("MemoryMax=") for line in lines) == 1


@needs_systemd
def test_systemd_rates_each_unit_as_hardened(units: Path) -> None:
    for path in sorted(units.glob("*.service")):
        command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(path)]
        rated = subprocess.run(command, capture_output=True, text=True, check=False)
        assert rated.returncode == 0, rated.stdout.splitlines()[-1]


@needs_systemd
def test_systemd_accepts_the_units(units: Path) -> None:
    verified = subprocess.run(
        ["systemd-analyze", "verify", *sorted(map(str, units.iterdir()))], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
