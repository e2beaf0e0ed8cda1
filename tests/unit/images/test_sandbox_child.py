"""The process that decodes: it starts in any folder, and ends with its parent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.images import sandbox
from tests.support.pictures import LIMITS, corners, encoded
from tests.support.sandboxed import ONE, is_alive
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("own_child")


def test_it_works_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Given a folder with a module that has the name of one of Python's
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert sandbox.render(encoded(corners(), "TIFF"), ONE, **LIMITS)


PROGRAM = """
import sys, threading, time
from pipeline.images import sandbox
from pipeline.images.identify import identify
from tests.support.pictures import LIMITS, corners, encoded, recipe
thread = threading.Thread(target=sandbox.render, args=(encoded(corners(), "PNG"), recipe("5x5")), kwargs=LIMITS)
thread.start()
thread.join()
print(sandbox._SANDBOX._child.pid, flush=True)
if sys.argv[1] == "exit":
    sys.exit()
time.sleep(600)
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_child_ends_with_its_parent(end: str) -> None:
    # Given a worker with a child
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, end], stdout=subprocess.PIPE, env=environment, text=True
    ) as worker:
        assert worker.stdout
        pid = int(worker.stdout.readline())
        # When the worker exits or is killed
        if end == "kill":
            worker.kill()
        worker.wait()
    # Then so does its child
    wait_for(lambda: not is_alive(pid))
