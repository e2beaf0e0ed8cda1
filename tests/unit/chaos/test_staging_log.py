"""The leftovers in staging that the chaos suite excuses: a worker put them there after another did the job."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.chaos.service import Line
from tests.chaos.staging_log import Delivery, StagingLog

PUT = "stages the-key for job-1"
HANDED_OVER = "has handed over job-1"
ENDED = "killed by SIGKILL; restarting in 0.5 s"
LOST = "fetch: lost 2 leases. Other workers may now receive the messages."


BODY = '{"queue_name":"fetch","kwargs":{"job":{"id":"job-1"}}}'

#: The message came to two workers, because the lease of the first had run out.
TWICE = (Delivery(0, "m", BODY), Delivery(6, "m", BODY))


def was_cut_off(*lines: tuple[str, str], delivered: Sequence[Delivery] = TWICE) -> bool:
    made = [Line(10 + at, process, text) for at, (process, text) in enumerate(lines)]
    return StagingLog(made, delivered, visibility=6).was_cut_off("the-key")


@pytest.mark.parametrize(
    "delivered",
    [
        pytest.param(TWICE, id="after the visibility timeout"),
        pytest.param([Delivery(0, "m", BODY), Delivery(1, "m", BODY, is_copy=True)], id="a copy"),
        pytest.param([Delivery(0, "m", BODY), Delivery(1, "n", BODY)], id="two messages"),
    ],
)
def test_a_job_that_two_workers_had_at_a_time_may_leave_an_object(delivered: list[Delivery]) -> None:
    assert was_cut_off(("fetch.1", PUT), ("fetch.2", HANDED_OVER), ("fetch.1", ENDED), delivered=delivered)


@pytest.mark.parametrize("lost", [0, 2])
def test_a_job_whose_message_another_worker_deleted_may_leave_an_object(lost: int) -> None:
    # Given a worker that lost its lease, although it lives
    lines = [("fetch.2", HANDED_OVER), ("fetch.1", LOST)] * lost + [("fetch.2", HANDED_OVER), ("fetch.1", PUT)]
    # Then its object is excused, and without such a loss it is not.
    assert was_cut_off(*lines) == bool(lost)
    assert not was_cut_off(*lines, ("fetch.1", HANDED_OVER))
    assert not was_cut_off(*lines, delivered=TWICE[:1])


@pytest.mark.parametrize(
    "delivered",
    [
        pytest.param([], id="it came to none"),
        pytest.param([Delivery(0, "m", BODY)], id="it came to one"),
        pytest.param([Delivery(0, "m", BODY), Delivery(5, "m", BODY)], id="before its lease ran out"),
        pytest.param([Delivery(0, "m", BODY), Delivery(60, "m", BODY)], id="after the worker had died"),
        pytest.param([Delivery(0, "m", BODY), Delivery(6, "n", BODY.replace("job-1", "job-2"))], id="another job"),
        pytest.param([Delivery(0, "m", BODY), Delivery(6, "n", BODY.replace("fetch", "resize"))], id="another stage"),
    ],
)
def test_without_a_second_delivery_it_is_an_error(delivered: list[Delivery]) -> None:
    assert not was_cut_off(("fetch.1", PUT), ("fetch.2", HANDED_OVER), ("fetch.1", ENDED), delivered=delivered)


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
