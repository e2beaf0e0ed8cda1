"""The queues of the stages."""

from __future__ import annotations

import pytest

from pipeline.stages import (
    BULK_QUEUES,
    FETCH,
    QUARANTINE_QUEUES,
    RESIZE,
    STAGES,
    Lane,
    dead_letter_queue_of,
    lane_of_queue,
    own_queues,
    stage_of_queue,
)


def test_giants_have_queues_of_their_own_in_resize_alone() -> None:
    assert RESIZE.queues == ("resize", "resize_bulk", "resize_giant", "resize_giant_bulk")
    assert FETCH.queue(Lane.BULK, giant=True) == "fetch_bulk"
    assert {"fetch_bulk", "resize_bulk", "resize_giant_bulk"} < BULK_QUEUES


@pytest.mark.parametrize("queue", [queue for stage in STAGES for queue in stage.queues])
def test_every_queue_leads_to_its_stage_lane_and_dead_letters(queue: str) -> None:
    stage = stage_of_queue(queue)
    assert stage is not None
    assert queue.startswith(stage.name)
    assert dead_letter_queue_of(queue) == stage.dead_letter_queue
    assert QUARANTINE_QUEUES[queue] == stage.quarantine_queue
    assert (lane_of_queue(queue) is Lane.BULK) == queue.endswith("_bulk")


def test_a_quarantine_queue_leads_to_its_stage_and_dead_letters() -> None:
    assert stage_of_queue("resize_quarantine") is RESIZE
    assert dead_letter_queue_of("resize_quarantine") == "resize_dlq"
    assert {"fetch_quarantine", "resize_quarantine"} < own_queues()
