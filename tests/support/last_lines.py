"""The last lines that the processes of a service printed. They are shown with a test that fails."""

from __future__ import annotations

import time
from collections import deque

_lines: deque[str] = deque(maxlen=150)


def note(process: str, text: str) -> None:
    """Remember a line of a process."""
    _lines.append(f"{time.strftime('%H:%M:%S')} {process}: {text}")


def text() -> str:
    """Return the last lines that processes printed in this pytest process."""
    return "\n".join(_lines)
