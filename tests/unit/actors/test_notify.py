"""The last stage: where the outcome of a job is delivered, what MongoDB gets of it, and what stays in staging."""

from __future__ import annotations

from dataclasses import replace

import pytest

import pipeline.actors  # noqa: F401 - builds the broker, on which the actors are declared
from actors import notify
from actors.resize import resize
from pipeline.errors import PipelineError, StagedMissing
from pipeline.images.content_id import content_id
from pipeline.job import CLEAN_UP, Content, Job, Rendered, Source, Unfinished
from pipeline.settings import get_settings
from pipeline.stages import FETCH, RESIZE, UPLOAD
from pipeline.storage.staging import LocalStaging, staging
from tests.support.attempts import attempt_at
from tests.support.jobs import CONTENT, COVER, DOWN, GONE, OTHER, a_sweeps_job
from tests.support.places import far_from_greenwich  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("local_staging")


def a_job(**payload: object) -> Job:
    payload = {"image_url": COVER, "itunes_image": OTHER, "postback_url": "https://receiver.example/hook"} | payload
    return Job.accept(payload, job_id="job-1", settings=get_settings(), stage_payload=lambda data: staging().put(data))


def is_staged(key: str) -> bool:
    try:
        return bool(staging().get(key))
    except StagedMissing:
        return False


class TestCleanUp:
    @pytest.mark.parametrize(("error", "kept"), [(DOWN, {"bad", "its renditions"}), (GONE, set())])
    def test_only_the_bytes_of_a_source_that_was_given_up_stay(self, error: PipelineError, kept: set[str]) -> None:
        # Given a job with one published image and one failed image, both with bytes in staging
        assert isinstance(staging(), LocalStaging)
        job = a_job()
        good, bad = job.sources
        keys = {name: staging().put(name.encode()) for name in ("good", "renditions", "bad", "its renditions")}
        published = replace(good, original=keys["good"], rendered=Rendered(keys["renditions"])).published(CONTENT)
        failed = replace(bad, original=keys["bad"], rendered=Rendered(keys["its renditions"])).failed(UPLOAD, error)
        # When it is cleaned up
        notify.clean_up(job.with_sources({COVER: published, OTHER: failed}))
        # Then only bytes that a redrive may need are left.
        assert {name for name, key in keys.items() if is_staged(key)} == kept

    def test_copies_of_a_job_whose_source_is_not_an_image_all_report_that(self) -> None:
        # Given a job that SQS delivered to resize three times, with bytes of no image
        job = replace(a_job(), ticket="ticket")
        source = job.sources[0]
        content = replace(CONTENT, id=content_id(b"no image", CONTENT.recipe))
        job = job.with_sources({COVER: stage_again(job, source, content)})
        copies = [stage_again(job, job.sources[0].back_at_fetch(), content) for _ in range(2)]
        # When the first ends, and the others restart at fetch because it deleted the staged bytes
        assert resize_and_clean_up(job, job.sources[0]) == "not_an_image"
        with pytest.raises(StagedMissing):
            resize(job, job.sources[0])
        stage_again(job, copies[0], content)
        # And the clean-up of the first is repeated meanwhile
        notify.clean_up(job.with_errors(RESIZE, {COVER: GONE}))
        # Then the copies find the bytes, one after the other.
        assert [resize_and_clean_up(job, copy) for copy in copies] == ["not_an_image", "not_an_image"]


def stage_again(job: Job, source: Source, content: Content) -> Source:
    return source.fetched(staging().put(b"no image", job.staged_key(FETCH, source, content)), content)


def resize_and_clean_up(job: Job, source: Source) -> str:
    with pytest.raises(PipelineError) as raised:
        resize(job, source)
    notify.clean_up(job.with_sources({source.url: source.failed(RESIZE, raised.value)}))
    return raised.value.code


class TestPendingDeliveries:
    def test_each_requested_place_and_then_the_clean_up(self) -> None:
        both = a_job(redirect_queue="results").with_errors(FETCH, {COVER: GONE, OTHER: GONE})
        one = a_job().with_errors(FETCH, {COVER: GONE, OTHER: GONE})
        assert list(notify.pending_deliveries(both)) == ["redirect_queue", "postback_url", CLEAN_UP]
        assert list(notify.pending_deliveries(one)) == ["postback_url", CLEAN_UP]

    def test_a_retried_job_has_only_the_remaining_ones(self) -> None:
        job = a_job(redirect_queue="results").with_errors(FETCH, {COVER: GONE, OTHER: GONE})
        assert list(notify.pending_deliveries(replace(job, deliveries=("postback_url",)))) == ["postback_url"]
        assert list(notify.pending_deliveries(replace(job, deliveries=(CLEAN_UP,)))) == [CLEAN_UP]

    def test_a_sweeps_job_is_written_to_its_documents_only(self) -> None:
        job = a_sweeps_job().with_errors(FETCH, {COVER: GONE, OTHER: GONE})
        assert list(notify.pending_deliveries(job)) == [notify.DOCUMENT, CLEAN_UP]

    def test_the_result_goes_out_under_the_jobs_id_with_a_long_payload_from_staging(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a job with a staged payload that an operator redrove
        delivered: list[tuple[object, ...]] = []
        monkeypatch.setitem(notify.DELIVERIES, "postback_url", lambda *delivery: delivered.append(delivery))
        job = replace(a_job(long="x" * 70_000), redrives=2)
        assert job.payload_key
        (good, _) = job.sources
        job = job.with_errors(FETCH, {OTHER: GONE}).with_sources({COVER: good.published(CONTENT)})
        # When it is delivered
        notify.pending_deliveries(job)["postback_url"]()
        # Then the receiver gets the payload and the result, under the redriven job's own id.
        ((redriven, where, result),) = delivered
        assert isinstance(redriven, Job)
        assert (redriven.report_id, where) == ("job-1.r2", "https://receiver.example/hook")
        assert isinstance(result, dict)
        assert result["long"] == "x" * 70_000
        assert result["image_url_info"]["50x50"]["url"].endswith(f"/custom/{CONTENT.id}_50x50.jpeg")
        assert result["itunes_image_error"]["code"] == "http_404"


class TestNotify:
    def test_each_failed_delivery_is_retried_on_its_own_and_blocks_no_other(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given two unreachable receivers, and bytes in staging
        def fails(*_: object) -> None:
            raise DOWN

        monkeypatch.setitem(notify.DELIVERIES, "redirect_queue", fails)
        monkeypatch.setitem(notify.DELIVERIES, "postback_url", fails)
        key = staging().put(b"bytes")
        job = a_job(redirect_queue="results")
        job = job.with_sources({s.url: replace(s, original=key).published(CONTENT) for s in job.sources})
        # When the job is delivered
        with pytest.raises(Unfinished) as caught:
            notify.notify_result.fn.__wrapped__(attempt_at(job, "notify"))
        # Then each delivery continues as a job of its own, and the bytes are deleted nevertheless.
        assert [(part.deliveries, errors) for part, errors in caught.value.parts] == [
            (("redirect_queue",), {"redirect_queue": DOWN}),
            (("postback_url",), {"postback_url": DOWN}),
        ]
        assert not is_staged(key)
