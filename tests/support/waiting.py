"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], timeout: float = 60.0) -> T:
    """Return the result of `condition` once it is true; fail after `timeout` seconds.

    Conditions often ask a server, so the pauses grow with the time already waited, from 10 to 200 ms.
    """
    began = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - began
        assert waited < timeout, f"still not true after {timeout} s"
        time.sleep(min(max(0.01, waited / 20), 0.2))
    return value
