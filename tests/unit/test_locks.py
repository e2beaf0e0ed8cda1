"""The lock files match pyproject.toml; checked offline and without changing a file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DEPENDENCIES = PROJECT["project"]["dependencies"]
BUILD = PROJECT["build-system"]["requires"]
GROUPS = PROJECT["dependency-groups"]

#: The sources of each lock, as in `make lock`.
LOCKED = {
    "base": [*DEPENDENCIES, *BUILD],
    "dev": [*DEPENDENCIES, *GROUPS["dev"]],
    "servers": GROUPS["servers"],
    "docs": GROUPS["docs"],
    "types": GROUPS["types"],
}


class Pin(NamedTuple):
    """A lock's entry for a package: the version with its comments, and the condition."""

    version: Version
    marker: str
    via: str


def pins(lock: str) -> dict[str, Pin]:
    text = (ROOT / f"requirements/{lock}.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)(?:\[.*\])?==([^\s;]+)(.*)\n((?:[ ].*\n?)*)", text, re.MULTILINE)
    return {canonicalize_name(name): Pin(Version(version), marker, rest) for name, version, marker, rest in entries}


def wrong(lock: str, requirements: list[str]) -> list[str]:
    """Return the requirements that a lock does not meet."""
    pinned = pins(lock)
    found = []
    for text in requirements:
        requirement = Requirement(text)
        pin = pinned.get(canonicalize_name(requirement.name))
        if (
            pin is None
            or not requirement.specifier.contains(pin.version, prereleases=True)
            or bool(requirement.marker) != ("sys_platform" in pin.marker or "platform_machine" in pin.marker)
        ):
            found.append(text)
    return found


@pytest.mark.parametrize("lock", LOCKED)
def test_a_lock_meets_the_requirements_of_pyproject(lock: str) -> None:
    assert wrong(lock, LOCKED[lock]) == [], "`make lock` updates the locks"


@pytest.mark.parametrize("lock", ["base", "dev"])
def test_a_lock_has_no_packages_that_pyproject_no_longer_requires(lock: str) -> None:
    required = {canonicalize_name(Requirement(text).name) for text in DEPENDENCIES}
    named = {name for name, pin in pins(lock).items() if re.search(r"image-pipeline \(pyproject\.toml\)", pin.via)}
    assert named == required, "`make lock` updates the locks"


def test_both_locks_agree() -> None:
    base, dev = pins("base"), pins("dev")
    assert {name: dev[name].version for name in base} == {name: pin.version for name, pin in base.items()}
