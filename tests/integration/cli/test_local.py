"""`local`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_a_terminal_without_unicode_gets_ascii(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [str(Path(sys.executable).with_name("image-pipeline")), "local", "--data-dir", str(tmp_path / "file")]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert ended.stdout == "Starting the embedded servers ?\n"
    assert "is not writable" in ended.stderr
    assert ended.returncode == 2
