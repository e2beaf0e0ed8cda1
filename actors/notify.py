"""The notify stage: delivers the result of a job, or writes it back to the document that a sweep found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from pipeline.attempt import Attempt
from pipeline.errors import PipelineError
from pipeline.job import CLEAN_UP, DOCUMENT, Job, Unfinished
from pipeline.net.host_limits import receiver_limiter
from pipeline.net.notifications import postback, redirect
from pipeline.payload import Payload, check_destinations, parse_json
from pipeline.settings import get_settings
from pipeline.stages import NOTIFY
from pipeline.storage.publish import image_info, with_details
from pipeline.storage.staging import staging
from pipeline.sweeps.delivery import write_to_documents
from pipeline.worker.stage_actor import stage_actor


def _redirect(job: Job, queue: str, result: Payload) -> None:
    redirect(job.report_id, queue, result)


def _postback(job: Job, url: str, result: Payload) -> None:
    with receiver_limiter().slot(url, job.lane, job.folder):
        postback(job.report_id, url, result)


#: The function that delivers a result, by the payload field that requests it (`pipeline.job.DELIVERIES`).
DELIVERIES: dict[str, Callable[[Job, str, Payload], None]] = {
    "redirect_queue": _redirect,
    "postback_url": _postback,
}


@stage_actor(NOTIFY)
def notify_result(attempt: Attempt) -> None:
    """Make each requested delivery, then delete the job's staged bytes. Deliveries that fail are retried separately."""
    job, failed = attempt.job, dict[str, PipelineError]()
    for name, deliver_one in pending_deliveries(job).items():
        try:
            deliver_one()
        except PipelineError as error:
            failed[name] = error
    if failed:
        raise Unfinished(*((replace(job, deliveries=(name,)), {name: error}) for name, error in failed.items()))


def pending_deliveries(job: Job) -> dict[str, Callable[[], object]]:
    """Return the deliveries that are still to be made, by name, and the clean-up after them.

    A sweep's job has one delivery, to MongoDB. No message from outside can request it.
    """
    clean: dict[str, Callable[[], object]] = {CLEAN_UP: partial(clean_up, job)}
    if job.deliveries == (CLEAN_UP,):
        return clean
    payload = parse_json(staging().get(job.payload_key)) if job.payload_key else job.payload or {}
    if not job.sweep:  # the settings may have become stricter, and without JOB_KEY anyone may have written the job
        check_destinations(payload, get_settings())
    result = with_details(job, job.result(payload, lambda content: image_info(job.folder, content)))
    asked: dict[str, Callable[[], object]] = {
        name: partial(deliver, job, payload[name], result) for name, deliver in DELIVERIES.items() if payload.get(name)
    }
    if job.sweep:
        asked = {DOCUMENT: partial(write_to_documents, job, job.sweep, result)}
    return asked | clean if job.deliveries is None else {name: asked[name] for name in job.deliveries}


def clean_up(job: Job) -> None:
    """Delete the staged bytes of the job, except what another message may need.

    A redrive needs those of a source that was given up after retries. If it failed permanently, a redrive begins again
    at fetch, because only another source can succeed. A source that restarted at fetch and failed has copies, which
    could not restart a second time.
    """
    ended = [source for source in job.sources if not (source.given_up or (source.restarted and source.error))]
    staging().delete([key for source in ended for key in source.staged_keys])
