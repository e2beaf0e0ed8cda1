"""The workflows and Dependabot's configuration fit their schemas, name things that exist, and trust little."""

from __future__ import annotations

import json
import re
import shutil
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


def workflow(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((GITHUB / f"workflows/{name}.yml").read_text(encoding="utf-8"))
    return loaded


def steps_of(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


def problems(schema: str, *paths: Path) -> str:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode else ""


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_the_workflows_fit_their_schema(schema: str) -> None:
    assert problems(schema, *WORKFLOWS) == ""


def test_dependabots_configuration_fits_its_schema() -> None:
    assert problems("vendor.dependabot", GITHUB / "dependabot.yml") == ""


def test_the_gate_runs_on_every_supported_python() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(classifiers))
    gate = workflow("ci")["jobs"]["gate"]
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


def test_the_lock_of_npm_names_no_registry() -> None:
    packages = json.loads((ROOT / "benchmarks/images/package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert not [name for name, package in packages.items() if "resolved" in package]


class TestTrust:
    @pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
    def test_actions_are_pinned_to_a_commit_and_name_its_version(self, path: Path) -> None:
        used = re.findall(r"uses: *(.*)", path.read_text(encoding="utf-8"))
        assert used
        assert [each for each in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []

    @pytest.mark.parametrize("name", [path.stem for path in WORKFLOWS])
    def test_workflows_may_only_read_unless_a_job_says_otherwise(self, name: str) -> None:
        assert workflow(name)["permissions"] == {"contents": "read"}

    @pytest.mark.parametrize("name", [path.stem for path in WORKFLOWS])
    def test_checkouts_leave_no_token_behind(self, name: str) -> None:
        checkouts = [step for step in steps_of(name) if step.get("uses", "").startswith("actions/checkout@")]
        assert checkouts
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)

    def test_only_the_last_step_of_a_job_that_installs_nothing_sees_the_token(self) -> None:
        for name in (path.stem for path in WORKFLOWS):
            for job in workflow(name)["jobs"].values():
                *others, last = job["steps"]
                assert "token" not in json.dumps([job.get("env", {}), workflow(name).get("env", {}), others])
                if "permissions" in job:
                    commands = " ".join(step.get("run", "") for step in job["steps"])
                    assert not re.search(r"\b(make|pip|uv|npm|python3?)\b", commands)
                    assert "github.token" in json.dumps(last)
                else:
                    assert "token" not in json.dumps(last)

    def test_pip_builds_no_package_where_the_newest_releases_are_installed(self) -> None:
        (resolve,) = (step for step in steps_of("locks") if "make lock" in step.get("run", ""))
        assert resolve["env"] == {"PIP_ONLY_BINARY": ":all:"}

    @pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml"])
    def test_images_of_others_are_pinned_to_a_digest(self, name: str) -> None:
        text = (ROOT / name).read_text(encoding="utf-8")
        stages = re.findall(r" AS (\S+)$", text, re.MULTILINE)
        images = re.findall(r"^ *(?:FROM|image:) *(\S+)", text, re.MULTILINE)
        foreign = [each for each in images if each not in stages and "image-pipeline" not in each]
        assert foreign
        assert [each for each in foreign if not re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", each)] == []


def tracked_locks() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.lock"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


class TestTakeLocks:
    """The script that decides which files of the job with untrusted packages the job with the token may commit."""

    LOCK = f"six==1.17.0 \\\n    --hash=sha256:{'0' * 64}\n    # via nothing\n"

    @pytest.fixture
    def clone(self, tmp_path: Path) -> Path:
        clone = tmp_path / "clone"
        for name in ("requirements/base.lock", "pyproject.toml", ".ci/take-locks"):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / ".ci/take-locks", clone / ".ci")
        (clone / "requirements/base.lock").write_text(self.LOCK, encoding="utf-8")
        (clone / "pyproject.toml").touch()
        for command in (["init", "--quiet"], ["add", "--all"]):
            subprocess.run(["git", *command], cwd=clone, check=True)
        return clone

    @pytest.fixture
    def renewed(self, tmp_path: Path) -> Path:
        renewed = tmp_path / "renewed/requirements/base.lock"
        renewed.parent.mkdir(parents=True)
        renewed.write_text(self.LOCK.replace("1.17.0", "1.18.0"), encoding="utf-8")
        return renewed

    def take(self, clone: Path, folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([clone / ".ci/take-locks", folder], check=False, capture_output=True, text=True)

    def test_renewed_locks_are_taken(self, clone: Path, renewed: Path) -> None:
        done = self.take(clone, renewed.parents[1])
        assert (done.returncode, done.stderr) == (0, "")
        assert "six==1.18.0" in (clone / "requirements/base.lock").read_text(encoding="utf-8")

    @pytest.mark.parametrize("name", ["pyproject.toml", ".ci/take-locks", ".git/hooks/pre-commit", "new.lock"])
    def test_any_other_file_is_refused(self, clone: Path, renewed: Path, name: str) -> None:
        other = renewed.parents[1] / name
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text(self.LOCK, encoding="utf-8")
        self.is_refused(clone, renewed, f"{name} is not a lock of this project")

    def test_a_link_is_refused(self, clone: Path, renewed: Path) -> None:
        renewed.unlink()
        renewed.symlink_to("/etc/hostname")
        self.is_refused(clone, renewed, "requirements/base.lock is not a lock of this project")

    @pytest.mark.parametrize(
        "line",
        [
            "--index-url https://packages.example/simple",
            "six @ https://packages.example/six.whl",
            "-r /etc/passwd",
            "six",
            "six==1.18.0",
        ],
    )
    def test_a_line_that_is_not_a_version_with_hashes_is_refused(self, clone: Path, renewed: Path, line: str) -> None:
        with renewed.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        self.is_refused(clone, renewed, "requirements/base.lock has a line that no lock has")

    def is_refused(self, clone: Path, renewed: Path, reason: str) -> None:
        done = self.take(clone, renewed.parents[1])
        assert done.returncode == 1
        assert reason in done.stderr
        assert (clone / "requirements/base.lock").read_text(encoding="utf-8") == self.LOCK

    def test_the_present_locks_would_be_taken(self, clone: Path, tmp_path: Path) -> None:
        for name in tracked_locks():
            for folder in (clone, tmp_path / "present"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        subprocess.run(["git", "add", "--all"], cwd=clone, check=True)
        done = self.take(clone, tmp_path / "present")
        assert (done.returncode, done.stderr) == (0, "")

    def test_each_lock_is_handed_over(self) -> None:
        (handed,) = (step["with"]["path"].split() for step in steps_of("locks") if "upload-artifact" in str(step))
        found = {str(path.relative_to(ROOT)) for pattern in handed for path in ROOT.glob(pattern)}
        assert found == set(tracked_locks())
