"""Makes packages unimportable in this process and in every Python that it starts, as if they were uninstalled.

    TESTS_WITHOUT=kornia_rs,numpy PYTHONPATH=tests/support/missing pytest

Python imports this module when it starts. The two variables are added to the environment of child processes that get
their own environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

#: The environment variable that names the packages, separated by commas.
WITHOUT = "TESTS_WITHOUT"

FOLDER = str(Path(__file__).parent)


class Missing:
    """A finder that runs before all others and reports that some packages do not exist."""

    def __init__(self, packages: frozenset[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {name!r} (left out by --without)", name=name)


def leave_out(packages: str) -> None:
    """Make `packages` unimportable in this process and in all processes that it starts."""
    sys.meta_path.insert(0, Missing(frozenset(packages.split(","))))
    os.environ |= _with_ours(os.environ, packages)
    start = subprocess.Popen.__init__

    def start_without(self: Any, *args: Any, env: Any = None, **options: Any) -> None:
        start(self, *args, env=env if env is None else _with_ours(env, packages), **options)

    subprocess.Popen.__init__ = start_without  # type: ignore[method-assign, assignment]


def _with_ours(environment: Any, packages: str) -> dict[str, str]:
    path = [FOLDER, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return {**environment, WITHOUT: packages, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}


if __name__ == "sitecustomize" and os.environ.get(WITHOUT):
    leave_out(os.environ[WITHOUT])
