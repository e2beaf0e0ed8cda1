"""Installs Celery with its SQS transport, together with the service's packages, in a folder that git ignores."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from peers import FOLDER, is_made, run, set_made

HERE = Path(__file__).parent
HOME = FOLDER / "celery"


@cache
def celery_bin() -> Path:
    """Return the folder of its programs."""
    locks = HERE.parents[1] / "requirements/base.lock", HERE / "peers.lock"
    if not is_made(HOME, *locks):
        FOLDER.mkdir(exist_ok=True)
        run(sys.executable, "-m", "venv", "--clear", HOME)
        for each in locks:
            pip = [HOME / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
            run(*pip, "install", "--require-hashes", "-r", each)
        set_made(HOME, *locks)
    return HOME / "bin"
