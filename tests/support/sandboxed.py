"""Rendering in a sandbox whose decoder runs Python code."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.images import sandbox
from tests.support.pictures import LIMITS, recipe

#: Arguments of an interpreter whose decoder runs its source as Python code.
HOOK = ("-P", "-m", "tests.support.decoder_hook")

ONE = recipe("5x5")


def run(code: str) -> dict[str, bytes]:
    return sandbox.render(textwrap.dedent(code).encode(), ONE, **LIMITS)


def refused(code: str) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        run(code)
    return caught.value


def child() -> int:
    assert sandbox._SANDBOX._child
    return sandbox._SANDBOX._child.pid


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
