"""The leftovers in staging that the chaos suite excuses: a killed worker put them there after another did the job."""

from __future__ import annotations

import pytest

from tests.chaos.service import Line
from tests.chaos.staging_log import StagingLog

PUT = "stages the-key for job-1"
HANDED_OVER = "has handed over job-1"
ENDED = "killed by SIGKILL; restarting in 0.5 s"


def was_cut_off(*lines: tuple[str, str]) -> bool:
    return StagingLog([Line(at, process, text) for at, (process, text) in enumerate(lines)]).was_cut_off("the-key")


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([], id="no log line mentions it"),
        pytest.param([("fetch.2", HANDED_OVER), ("fetch.1", PUT)], id="its worker lives"),
        pytest.param([("fetch.2", HANDED_OVER), ("fetch.1", PUT), ("fetch.3", ENDED)], id="another ended"),
        pytest.param(
            [("fetch.2", HANDED_OVER), ("fetch.1", PUT), ("fetch.1", HANDED_OVER), ("fetch.1", ENDED)],
            id="its worker handed over",
        ),
        pytest.param([("fetch.1", PUT), ("fetch.1", ENDED)], id="the job was not done"),
        pytest.param(
            [("fetch.1", PUT), ("fetch.1", ENDED), ("fetch.2", PUT), ("fetch.2", HANDED_OVER)], id="done later"
        ),
        pytest.param(
            [("fetch.2", HANDED_OVER), ("resize.1", PUT), ("resize.1", ENDED)], id="only the stage before was done"
        ),
        pytest.param([("fetch.2", "has handed over job-2"), ("fetch.1", PUT), ("fetch.1", ENDED)], id="another job"),
    ],
)
def test_all_other_leftovers_are_errors(lines: list[tuple[str, str]]) -> None:
    assert not was_cut_off(*lines)
