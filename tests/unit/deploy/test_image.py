"""The Dockerfile copies what it needs, and promises what the documents promise. `make image` builds and runs it."""

from __future__ import annotations

import re

from tests.unit.deploy.processes import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def copied() -> set[str]:
    """Return the first part of every path that is copied from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
    return {path.split("/")[0] for line in lines for path in line.split()[:-1]}


def test_the_context_has_what_is_copied_and_nothing_else() -> None:
    assert IGNORED[1] == "*"
    assert {line[1:] for line in IGNORED if line.startswith("!")} == copied()
    assert [name for name in copied() if not (ROOT / name).exists()] == []


def test_links_in_the_context_lead_to_what_is_copied() -> None:
    paths = [path for name in copied() for path in (ROOT / name).rglob("*") if path.is_symlink()]
    assert ROOT / "pipeline/local/Procfile" in paths
    assert {path.resolve().relative_to(ROOT).parts[0] for path in paths} <= copied()


def test_everything_is_installed_from_locks_with_hashes() -> None:
    commands = re.sub(r"\\\n\s*", "", DOCKERFILE)
    installs = re.findall(r"pip install (.*?)(?:&&|$)", commands, re.MULTILINE)
    assert len(installs) == 4
    assert all(
        each.startswith(("--require-hashes -r requirements/", "--no-deps --no-build-isolation .")) for each in installs
    )


def test_no_stage_that_runs_is_root() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    for stage in stages:
        if "\nCMD " in stage:
            assert re.findall(r"^USER (.*)$", stage, re.MULTILINE) == ["65534:65534"]
    assert sum("\nCMD " in stage for stage in stages) == 2
    assert "HEALTHCHECK" in stages[-1]
