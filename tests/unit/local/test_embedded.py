"""The commands `local` and `demo` outside of a checkout, where a wheel has been installed."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from pipeline.local import embedded
from pipeline.local.embedded import SERVERS, EmbeddedStack, EmbeddedStackError
from pipeline.local.standalone import PROCFILE

ROOT = Path(__file__).parents[3]


def test_the_servers_have_the_versions_of_the_lock() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    assert set(SERVERS) <= set(groups["servers"])


def test_the_procfile_that_a_wheel_contains_is_the_procfile() -> None:
    assert PROCFILE.resolve() == ROOT / "Procfile"


def message_without_servers(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    monkeypatch.setattr(sys, "prefix", str(folder / "my venv"))
    monkeypatch.setattr(sys, "executable", str(folder / "my venv/bin/python"))
    with pytest.raises(EmbeddedStackError) as caught, EmbeddedStack(folder / "data"):
        pass
    return str(caught.value)


def test_a_missing_server_is_installed_by_make_in_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert message_without_servers(monkeypatch, tmp_path).endswith("is not installed: run `make setup-dev`")


def test_a_missing_server_is_installed_by_pip_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded, "IS_CHECKOUT", False)
    message = message_without_servers(monkeypatch, tmp_path)
    assert f"'{tmp_path}/my venv/servers/bin/python' -m pip install {' '.join(SERVERS)}" in message
    assert f"-m venv '{tmp_path}/my venv/servers' && " in message
