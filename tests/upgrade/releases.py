"""The releases that run beside each other, each with an environment of its own."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

#: The first release, for clones without tags.
FIRST: Final = ("v0.1.0", "07736e3fa2ff2eeaa4dbbe98d7d0f293bf9219fa")

#: What the next release changes: the version of its jobs, which this one does not know.
NEXT_VERSION: Final = ("pipeline/job.py", "\nVERSION = 1\n", "\nVERSION = 2\n")

#: Seconds until a job of an unknown version is tried again, shortened in both. Each hop may go to the wrong workers.
QUICK: Final = ("pipeline/worker/failures.py", "\nUNKNOWN_VERSION_DELAY = 30\n", "\nUNKNOWN_VERSION_DELAY = 1\n")


class CannotTest(Exception):
    """The test cannot run here. The message gives the reason and what to do."""


@dataclass(frozen=True)
class Release:
    """A release that can be run: its name, the Procfile, and the folders of its programs and its code."""

    name: str
    procfile: Path
    programs: Path
    code: Path | None = None  #: comes before what is installed

    def write_procfile(self, folder: Path, kinds: tuple[str, ...]) -> Path:
        """Write a Procfile whose processes are those of this release; return its path."""
        path = f"PATH={self.programs}:$PATH" + (f" PYTHONPATH={self.code}" if self.code else "")
        lines = [line.partition(": ") for line in self.procfile.read_text(encoding="utf-8").splitlines()]
        written = folder / f"Procfile.{self.name}"
        chosen = [f"{kind}: {path} {command}" for kind, _, command in lines if kind in kinds]
        written.write_text("\n".join(chosen) + "\n", encoding="utf-8")
        return written


def this_release() -> Release:
    return Release("this", ROOT / "Procfile", Path(sys.executable).parent)


def last_release(folder: Path) -> Release:
    """Return the last tagged release, installed from its lock in an environment that is kept for the next time.

    Raises:
        CannotTest: This is not a clone, or it lacks the release.
    """
    name, commit = _last_tag() or FIRST
    code = folder / name
    _extract(commit, code)
    environment = Path(sys.prefix) / f"release-{commit[:12]}"
    if not (environment / "ready").exists():
        shutil.rmtree(environment, ignore_errors=True)
        uv = Path(sys.executable).parent / "uv"
        _run(uv, "venv", "--quiet", "--python", sys.executable, environment)
        install = (uv, "pip", "install", "--quiet", "--python", environment / "bin/python")
        _run(*install, "--require-hashes", "-r", code / "requirements/base.lock")
        _run(*install, "--no-deps", "--no-build-isolation", code)
        (environment / "ready").touch()
    return Release(name, code / "Procfile", environment / "bin")


def changed(folder: Path, name: str, *changes: tuple[str, str, str]) -> Release:
    """Return this release with texts replaced in a copy of its code."""
    code = folder / name
    for package in ("pipeline", "actors"):
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path, old, new in changes:
        text = (code / path).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise CannotTest(f"{path} no longer contains {old.strip()!r} once: adapt tests/upgrade/releases.py.")
        (code / path).write_text(text.replace(old, new), encoding="utf-8")
    return Release(name, ROOT / "Procfile", Path(sys.executable).parent, code)


def _last_tag() -> tuple[str, str] | None:
    """Return the last tag before the version in pyproject.toml, with its commit; None without one."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    described = _git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "--exclude", f"v{version}")
    if described.returncode:
        return None
    tag = described.stdout.decode().strip()
    return tag, _git("rev-parse", f"{tag}^{{commit}}").stdout.decode().strip()


def _extract(commit: str, folder: Path) -> None:
    archive = _git("archive", commit)
    if archive.returncode:
        raise CannotTest(
            f"This clone has neither a tag of an earlier release nor the commit {commit[:12]}. If it is shallow, run "
            "`git fetch --unshallow --tags`."
        )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, check=False)


def _run(*command: str | Path) -> None:
    subprocess.run(command, cwd=ROOT, check=True)
