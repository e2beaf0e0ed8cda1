"""The delivery of a sweep's job to its documents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.stages import FETCH
from pipeline.sweeps.delivery import to_write_back
from tests.support.jobs import CONTENT, COVER, DOWN, GONE, OTHER, a_sweeps_job
from tests.support.places import far_from_greenwich  # noqa: F401 - a fixture


class TestOutcome:
    @pytest.mark.parametrize("given_up", [COVER, OTHER])
    def test_a_given_up_error_comes_first(self, given_up: str) -> None:
        # Given a sweep's job with one permanently failed image, and another image that may succeed later
        job = a_sweeps_job().with_errors(FETCH, {url: DOWN if url == given_up else GONE for url in (COVER, OTHER)})
        # When its write-back is built
        outcome = to_write_back(job, job.result({}, lambda _: {}))
        # Then the document's only error field gets the error that explains the wait.
        assert [error["code"] for error in outcome["errors"].values()] == ["http_503", "http_404"]
        assert outcome["given_up"]
        assert outcome["stored"] == {}

    @pytest.mark.usefixtures("far_from_greenwich")
    def test_a_stored_image_and_a_permanently_failed_image(self) -> None:
        job = a_sweeps_job()
        (good, _) = job.sources
        job = job.with_errors(FETCH, {OTHER: GONE}).with_sources({COVER: good.published(CONTENT)})
        outcome = to_write_back(job, job.result({}, lambda content: {"id": content.id}))
        assert outcome["stored"] == {"image_url": {"id": CONTENT.id}}
        assert not outcome["given_up"]
        (error,) = outcome["errors"].values()
        assert {
            "field": "itunes_image",
            "stage": "fetch",
            "code": "http_404",
            "message": "Gone.",
        }.items() <= error.items()
        assert abs(error["at"] - datetime.now(UTC)) < timedelta(minutes=1)
