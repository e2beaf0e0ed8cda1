"""The end of `image-pipeline status --watch`."""

from __future__ import annotations

import io
import os
import signal

import pytest
from rich.console import Console
from rich.live import Live

from pipeline.cli import status


def test_a_second_ctrl_c_does_not_keep_a_watch_from_restoring_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    restored = []

    class Interrupted(Live):
        def stop(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            super().stop()
            restored.append(True)

    def look() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "not reached"

    monkeypatch.setattr(status, "Live", Interrupted)
    monkeypatch.setattr(status, "console", Console(file=io.StringIO(), force_terminal=True))
    # Given a watch that Ctrl-C interrupts, and once more while it ends; then it ends without an error.
    status._show(look, str, watch=True, as_json=False)
    assert restored
