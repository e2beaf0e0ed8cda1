"""A pytest plugin that records which tests reach which lines, and how long they take.

`python -m tests.mutants` loads it with `-p` and passes a folder in MUTANTS_REACH. Each pytest-xdist process writes
coverage data to that folder, with the test's name as the context of its lines. The controller writes `tests.json`.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

from tests.mutants.areas import FILES

_FOLDER = Path(os.environ["MUTANTS_REACH"])


def name_of(nodeid: str) -> str:
    """Return a test function's name without its parameters."""
    return nodeid.partition("[")[0]


class LineRecorder:
    """Records coverage in a process that runs tests."""

    def __init__(self) -> None:
        self._coverage = coverage.Coverage(
            data_file=str(_FOLDER / "lines"), data_suffix=True, config_file=False, include=list(FILES)
        )
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(name_of(item.nodeid))
        result = yield
        self._coverage.switch_context("")
        return result

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        self._coverage.save()


class ResultRecorder:
    """Records durations and failures: a test that fails without a mutant proves nothing."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[name_of(report.nodeid)] += report.duration
        if report.failed:
            self._failed.add(name_of(report.nodeid))

    def pytest_sessionfinish(self) -> None:
        seconds = {name: seconds for name, seconds in self._seconds.items() if name not in self._failed}
        (_FOLDER / "tests.json").write_text(json.dumps({"seconds": seconds, "failed": sorted(self._failed)}))


def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")
    config.pluginmanager.register(LineRecorder() if is_worker else ResultRecorder())
