"""The actors of the stages."""

from __future__ import annotations

from dataclasses import replace

import pytest

import pipeline.actors  # noqa: F401 - builds the broker, on which the actors are declared
from pipeline.job import Content, Job, Source
from pipeline.recipe import Recipe, parse_rendition
from pipeline.sqs.wire import GROUP
from pipeline.stages import FETCH, RESIZE, Lane
from pipeline.worker.stage_actor import message_of

CONTENT = Content("0" * 32, ".jpeg", Recipe((parse_rendition("2x2"),)))
SOURCE = Source("http://a.example/", ("image_url",))


@pytest.mark.parametrize(
    ("source", "lane", "actor", "queue"),
    [
        (SOURCE, Lane.LIVE, FETCH.actor, "fetch"),
        (SOURCE, Lane.BULK, FETCH.actor, "fetch_bulk"),
        (SOURCE.fetched("key", CONTENT), Lane.LIVE, RESIZE.actor, "resize"),
        (SOURCE.fetched("key", CONTENT, giant=True), Lane.BULK, RESIZE.actor, "resize_giant_bulk"),
    ],
)
def test_a_job_goes_to_the_queue_of_its_stage_its_lane_and_its_size(
    source: Source, lane: Lane, actor: str, queue: str
) -> None:
    message = message_of(replace(Job("job-1", "SHOW", (source,), ticket="t"), lane=lane))
    assert (message.actor_name, message.queue_name, message.options) == (actor, queue, {GROUP: "SHOW"})
