"""The command `image-pipeline drop` refuses a filter that matches nothing, and its filters end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pipeline.monitoring import orders
from tests.support.command_line import image_pipeline


def test_a_filter_needs_something_to_match_and_ends(job_log: None) -> None:
    image_pipeline("drop", status=2)
    later = datetime.now(UTC) + timedelta(hours=1)
    image_pipeline("drop", "--before", later.isoformat(), status=2)
    image_pipeline("drop", "--before", "yesterday", status=2)
    image_pipeline("drop", "--host", "https://cdn.example/", status=2)
    # Given a filter that has ended
    old = orders.Drop("A", "", later, silent=False, ends=datetime.now(UTC) - timedelta(seconds=1))
    orders.keep(old)
    # Then no process follows it, and the next order deletes it.
    assert orders.read().drops == ()
    orders.try_now("host", "cdn.example")
    assert not orders.remove(old.id)
