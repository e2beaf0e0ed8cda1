"""Which platforms have a wheel of every locked dependency. Resolved from the lock's hashes; nothing is downloaded."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK, MUSL_LOCK = ((ROOT / f"requirements/{name}.lock").read_text(encoding="utf-8") for name in ("base", "musl"))

#: Platforms with the versions of Python tried, and the packages that have no wheel there. docs/deploying.md lists them.
PLATFORMS = {
    "x86_64-manylinux_2_28": (["3.11", "3.12", "3.13", "3.14"], []),
    "aarch64-manylinux_2_28": (["3.11", "3.12", "3.13", "3.14"], []),
    "x86_64-unknown-linux-musl": (["3.13"], ["kornia-rs", "pymongo"]),
    "aarch64-unknown-linux-musl": (["3.13"], ["kornia-rs", "pymongo"]),
}


def entry_of(package: str) -> str:
    (entry,) = re.findall(rf"^{package}==(?:.*\\\n)+.*\n", LOCK, re.MULTILINE)
    return str(entry)


def has_wheels(lock: str, platform: str, python: str, folder: Path) -> bool:
    """Whether every package of a lock has a wheel for a platform. Skips the test without a package index."""
    path = folder / "lock.txt"
    path.write_text(lock, encoding="utf-8")
    command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--only-binary", ":all:", "--no-deps"]
    target = ["--target", folder / "none", "--python-platform", platform, "--python-version", python]
    done = subprocess.run(
        [*command, *target, "--require-hashes", "-r", path], capture_output=True, text=True, check=False
    )
    if re.search("Failed to fetch|error sending request|client error", done.stderr):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0 or "wheels" in done.stderr, done.stderr
    return done.returncode == 0


@pytest.mark.parametrize(
    ("platform", "python"), [(name, python) for name, (pythons, _) in PLATFORMS.items() for python in pythons]
)
def test_every_dependency_but_the_listed_ones_has_a_wheel(platform: str, python: str, tmp_path: Path) -> None:
    lock = LOCK
    for package in PLATFORMS[platform][1]:
        lock = lock.replace(entry_of(package), "")
    assert has_wheels(lock, platform, python, tmp_path)


@pytest.mark.parametrize("platform", [name for name in PLATFORMS if name.endswith("musl")])
def test_the_lock_for_musl_needs_a_source_of_pymongo_alone(platform: str, tmp_path: Path) -> None:
    assert has_wheels(MUSL_LOCK.replace(entry_of("pymongo"), ""), platform, "3.13", tmp_path)


def test_the_lock_for_musl_is_the_lock_without_fast_paths() -> None:
    base, musl = (dict(re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)", lock, re.MULTILINE)) for lock in (LOCK, MUSL_LOCK))
    assert base.keys() - musl.keys() == {"kornia-rs", "numpy"}
    assert musl.items() <= base.items()


@pytest.mark.parametrize(
    ("platform", "package"), [(name, package) for name, (_, packages) in PLATFORMS.items() for package in packages]
)
def test_a_listed_package_has_none(platform: str, package: str, tmp_path: Path) -> None:
    assert not has_wheels(entry_of(package), platform, "3.13", tmp_path)


def test_the_documents_list_them() -> None:
    page = (ROOT / "docs/deploying.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| musl.*$", page, re.MULTILINE)
    listed = {package for _, packages in PLATFORMS.values() for package in packages}
    assert set(re.findall(r"`([a-z-]+)`", row)) >= listed
