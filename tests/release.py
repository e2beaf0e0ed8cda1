"""Builds a release from the last commit, tries it in clean environments, and lists its parts: `make release`."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

from tests.smoke import PROGRAM, ROOT, files, run

DIST = ROOT / "dist"
UV = Path(sys.executable).parent / "uv"
CYCLONEDX = Path(sys.prefix) / "audit/bin/cyclonedx-py"


def main() -> None:
    """Write the wheel, the source distribution, the list of parts and the checksums to `dist/`."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if problem := _not_ready(version):
        sys.exit(problem)
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _extract("HEAD", folder / "source")
        build = ("build", "--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", DIST)
        run(UV, *build, folder / "source", cwd=folder)  # the wheel is built from the source distribution
        (DIST / ".gitignore").unlink(missing_ok=True)
        wheel, source = _one("*.whl"), _one("*.tar.gz")
        if missing := files() - set(zipfile.ZipFile(wheel).namelist()):
            sys.exit(f"not in {wheel.name}: {', '.join(sorted(missing))}")
        for package in (wheel, source):
            _try_out(package, version, folder)
    parts = DIST / f"image_pipeline-{version}.cdx.json"
    lock = ("--pyproject", ROOT / "pyproject.toml", "--output-file", parts, ROOT / "requirements/base.lock")
    run(CYCLONEDX, "requirements", *lock, cwd=ROOT)
    _write_checksums()
    for path in sorted(DIST.iterdir()):
        print(f"{path.stat().st_size:>10,}  {path.relative_to(ROOT)}")  # noqa: T201


def _not_ready(version: str) -> str:
    """Return why this commit cannot be released; empty if it can."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## \[(.+)\](.*)$", changelog, re.MULTILINE)
    if not first or first[1] != version or not re.search(r"\d{4}-\d\d-\d\d", first[2]):
        found = first[0] if first else "no heading"
        return (
            f"CHANGELOG.md begins with {found!r}. It must begin with '## [{version}] - <date>', as in pyproject.toml."
        )
    if changed := run("git", "status", "--porcelain", cwd=ROOT).strip():
        return f"Commit these first, because only what is committed is released:\n{changed}"
    return ""


def _extract(commit: str, folder: Path) -> None:
    archive = subprocess.run(("git", "archive", commit), cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")


def _one(pattern: str) -> Path:
    (path,) = DIST.glob(pattern)
    return path


def _try_out(package: Path, version: str, folder: Path) -> None:
    """Install a package in a fresh environment with the locked versions, and use it."""
    environment = folder / package.name.replace(".", "-")
    python = environment / "bin/python"
    run(UV, "venv", "--quiet", "--python", sys.executable, environment, cwd=folder)
    install = (UV, "pip", "install", "--quiet", "--python", python)
    run(*install, "--require-hashes", "-r", ROOT / "requirements/base.lock", cwd=folder)
    run(*install, "--no-deps", "--no-build-isolation", package, cwd=folder)
    run(UV, "pip", "check", "--quiet", "--python", python, cwd=folder)
    if version not in (shown := run(environment / "bin/image-pipeline", "--version", cwd=folder)):
        sys.exit(f"{package.name} has the version {shown.strip()}, not {version}")
    print(f"{package.name}: {run(python, '-c', PROGRAM, cwd=folder).strip()}")  # noqa: T201


def _write_checksums() -> None:
    """Write a file that `sha256sum --check` reads."""
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(DIST.iterdir())]
    (DIST / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
