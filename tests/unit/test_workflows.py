"""The workflows and Dependabot's configuration fit their schemas, and name things that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def steps_of(workflow: str) -> list[dict[str, Any]]:
    jobs = yaml.safe_load((GITHUB / f"workflows/{workflow}.yml").read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def problems(schema: str, *paths: Path) -> str:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode else ""


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_the_workflows_fit_their_schema(schema: str) -> None:
    assert problems(schema, *WORKFLOWS) == ""


def test_dependabots_configuration_fits_its_schema() -> None:
    assert problems("vendor.dependabot", GITHUB / "dependabot.yml") == ""


def test_a_wrong_workflow_does_not_fit(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOWS[0].read_text(encoding="utf-8").replace("runs-on:", "runs-at:"), encoding="utf-8")
    assert "runs-at" in problems("vendor.github-workflows", wrong)


def test_the_gate_runs_on_every_supported_python() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(classifiers))
    gate = yaml.safe_load((GITHUB / "workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["gate"]
    assert gate["strategy"]["matrix"]["python"] == supported
    assert gate["steps"][-1] == {"run": ".ci/run", "env": {"PYTHON": "python${{ matrix.python }}"}}
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_the_workflows_use_targets_of_make() -> None:
    used = {name for path in WORKFLOWS for step in steps_of(path.stem) for name in make_targets(step)}
    assert used >= {"image", "lock"}
    assert used <= set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))


def make_targets(step: dict[str, Any]) -> list[str]:
    return re.findall(r"\bmake ([a-z0-9-]+)", step.get("run", ""))


def test_dependabot_looks_at_every_lock_of_npm() -> None:
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text(encoding="utf-8"))["updates"]
    looked = {folder for update in updates for folder in update.get("directories", [])}
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert looked == {f"/{Path(name).parent}" for name in files if Path(name).name == "package-lock.json"}


def test_the_locks_of_npm_name_no_registry() -> None:
    for path in (ROOT / "tests/schema/package-lock.json", ROOT / "benchmarks/images/package-lock.json"):
        packages = json.loads(path.read_text(encoding="utf-8"))["packages"]
        assert not [name for name, package in packages.items() if "resolved" in package]
