"""Orders the tests and spreads them over workers, and skips tests without a browser or an optional package."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.session
import hypothesis
import pytest
from botocore.hooks import EventAliaser
from PIL import Image
from xdist.scheduler import LoadScopeScheduling

from tests.support import last_lines
from tests.support.missing.sitecustomize import WITHOUT
from tests.support.tracing import resting, tracing, unmeasured

TESTS = Path(__file__).parent

#: More workers than cores, because tests mostly wait.
WORKERS_PER_CORE = 2.5

#: Chromium's names on different systems.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
BROWSER_TESTS = TESTS / "browser"

#: Folders and modules in the order of their tests. The slowest run first, so no worker is left with one at the end. The
#: simulation uses the CPU while they wait.
ORDER = (
    "browser/test_dashboard.py",
    "chaos",
    "acceptance/test_sweeps.py",
    "simulation",
    "acceptance/test_dead_letters.py",
    "acceptance/test_service.py",
    "acceptance",
    "browser",
    "integration",
    "unit",
)

#: Folders whose modules share a service, so one worker runs all tests of a module.
WITH_SERVICES = ("tests/browser/", "tests/acceptance/")

# The same examples on every run; a failure prints how to repeat it.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("suite")

# Each test creates its own clients. botocore would read its descriptions of S3 and SQS again for each, in 0.1 s of CPU.
botocore.session.create_loader = functools.cache(botocore.loaders.create_loader)

# Each client would also compare the name of each of 150 events with 190 old names, in 5 ms.
_named_now = functools.cache(EventAliaser(None)._alias_event_name)
EventAliaser._alias_event_name = lambda _, name: _named_now(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--need-browser", action="store_true", help="fail if no browser is installed")
    parser.addoption("--screenshots", action="store_true", help="remake docs/dashboard-*.png")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(packages): is about these, and left out where TESTS_WITHOUT names one")
    config.addinivalue_line("markers", "unmeasured: runs only lines that other tests run too, and takes long if traced")
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
    items.sort(key=lambda item: _place(item.path))


@pytest.fixture(autouse=True)
def pillow_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the limit of pixels that earlier tests of rendering gave Pillow, which is one for the whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    with resting():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with unmeasured() if item.get_closest_marker("unmeasured") else resting():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (text := last_lines.text()):
        report.sections.append(("Last lines of the service", text))
    return report


def _traced() -> Generator[None, object, object]:
    with tracing():
        return (yield)


pytest_fixture_setup = pytest_pyfunc_call = pytest_runtest_teardown = pytest.hookimpl(wrapper=True)(_traced)


@pytest.hookimpl(optionalhook=True)  # the hook does not exist with `-p no:xdist`
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for `-n auto`."""
    return int(WORKERS_PER_CORE * (os.cpu_count() or 1))


class Spread(LoadScopeScheduling):
    """Gives each idle worker the next test, or all tests of the next module that starts a service."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if nodeid.startswith(WITH_SERVICES) else nodeid


@pytest.hookimpl(optionalhook=True)  # the hook does not exist with `-p no:xdist`
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    config.option.loadscopereorder = False  # keep the order of the collection
    return Spread(config, log)


@functools.cache
def _place(module: Path) -> int:
    """Return the place of a module's tests in `ORDER`."""
    return next(place for place, path in enumerate(ORDER) if module.is_relative_to(TESTS / path))
