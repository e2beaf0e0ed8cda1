"""The tests that need a browser, run where one is installed; and packages that can be left out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.missing.sitecustomize import WITHOUT

#: Chromium by the names that systems install it under.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
BROWSER_TESTS = Path(__file__).parent / "browser"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--need-browser", action="store_true", help="fail where there is no browser")
    parser.addoption("--screenshots", action="store_true", help="remake docs/dashboard-*.png")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(packages): is about these, and left out where TESTS_WITHOUT names one")
    if config.getoption("--need-browser") and not BROWSER:
        raise pytest.UsageError(f"no browser is installed: none of {', '.join(BROWSERS)} is in the PATH")


def pytest_report_header() -> str:
    if BROWSER:
        return f"browser: {BROWSER}"
    return f"browser: none of {', '.join(BROWSERS)} is in the PATH, so the tests in tests/browser are left out"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not BROWSER:
        left_out = [item for item in items if item.path.is_relative_to(BROWSER_TESTS)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    missing = frozenset(os.environ.get(WITHOUT, "").split(","))
    left_out = [item for item in items if any(missing.intersection(mark.args) for mark in item.iter_markers("needs"))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
