"""Options of the whole suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--uploads", type=int, default=200, help="Uploads that fail and are redriven in the test of it.")
