"""The actions of the forms on the pages. Each is a POST whose form `checked_form` has checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pipeline.clients.mongo import within
from pipeline.dashboard.auth import Access, checked_form
from pipeline.dashboard.redrives import WORDS, Act, Redrive, Redrives
from pipeline.dashboard.sources import Sources
from pipeline.dashboard.views import causes
from pipeline.errors import PipelineError
from pipeline.monitoring import orders, pauses
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.ops import results, submit
from pipeline.ops import sweeps as ops_sweeps
from pipeline.ops.dead_letters.dead_letter import DeadLetter
from pipeline.ops.submit import SubmitError
from pipeline.settings import get_settings
from pipeline.stages import DEAD_LETTER_QUEUES
from pipeline.sweeps.documents import SWEPT

#: A message must name a destination. For an image without a postback URL it is this queue. It never exists, so notify
#: skips it, and the job log has the result.
NOWHERE = "submit_to_job_log"

#: Shows the overview again with a form that was refused: its status, what is wrong, and the form.
ShowAgain = Callable[[Request, str, Mapping[str, str]], Response]


class Actions:
    """The handlers of all actions except logging in and out."""

    def __init__(self, access: Access, sources: Sources, redrives: Redrives, show_again: ShowAgain) -> None:
        self._access = access
        self._sources = sources
        self._redrives = redrives
        self._show_again = show_again

    def routes(self) -> Iterable[Route]:
        """Yield the route of every action."""
        yield Route("/submit", self.submit, methods=["POST"])
        for act in WORDS:
            yield Route(f"/{act}", partial(self.act, act), methods=["POST"])
        yield Route("/jobs/{job_id}/redrive", self.redrive_job, methods=["POST"])
        yield Route("/jobs/{job_id}/deliver", self.deliver, methods=["POST"])
        yield Route("/try-now", self.try_now, methods=["POST"])
        yield Route("/workers/pause", self.pause, methods=["POST"])
        yield Route("/sweeps/start", self.start_sweep, methods=["POST"])
        yield Route("/sweeps/stop", self.stop_sweep, methods=["POST"])

    async def submit(self, request: Request) -> Response:
        """Submit an image, and redirect to its page; without a job log, which has no such page, to the overview."""
        form = await checked_form(request, self._access)
        given = {name: str(form.get(name) or "").strip() for name in ("url", "folder", "postback_url")}
        try:
            job_id = await run_in_threadpool(_submit, given["url"], given["folder"], given["postback_url"])
        except (SubmitError, PipelineError) as error:
            return await run_in_threadpool(self._show_again, request, str(error), given)
        self._sources.poller.refresh()
        return RedirectResponse(f"/jobs/{job_id}?sent=yes" if self._sources.with_job_log else f"/?sent={job_id}", 303)

    async def act(self, act: Act, request: Request) -> Response:
        """Start to redrive or delete the confirmed number of dead letters of one cause, or to count them."""
        form = await checked_form(request, self._access)
        cause = self._cause(form)
        counting = Redrive(cause.stage, cause.code, "count")
        return self._start(counting if act == "count" else _confirmed(act, cause, form))

    async def redrive_job(self, request: Request) -> Response:
        """Start a redrive of the dead letters of one job."""
        form = await checked_form(request, self._access)
        job_id = request.path_params["job_id"]
        letter = self.letter_of(job_id)
        if letter and letter.obstacle:
            raise HTTPException(409, letter.obstacle)
        if letter is None:
            await self._do(self._expect_job, job_id)
        stage = letter.stage if letter else str(form.get("stage") or "")
        if stage not in DEAD_LETTER_QUEUES:
            raise HTTPException(404, "This job has no dead letter any more.")
        return self._start(Redrive(stage, letter.code if letter else "", job=job_id))

    async def deliver(self, request: Request) -> Response:
        """Deliver the kept result of a job again."""
        await checked_form(request, self._access)
        job_id = request.path_params["job_id"]
        await self._do(results.deliver_again, job_id)
        return RedirectResponse(f"/jobs/{job_id}", 303)

    async def try_now(self, request: Request) -> Response:
        """Let the jobs of `kind` and `value` that wait for a retry try now."""
        form = await checked_form(request, self._access)
        kind, value = (str(form.get(name) or "") for name in ("kind", "value"))
        if kind == "job":
            await self._do(self._expect_job, value)
        await self._do(orders.try_now, kind, value)
        return RedirectResponse(f"/jobs/{quote(value, safe='')}?tried=yes" if kind == "job" else "/", 303)

    async def pause(self, request: Request) -> Response:
        """Pause a stage, or let it go on."""
        form = await checked_form(request, self._access)
        act = pauses.resume if form.get("resume") else pauses.pause
        await self._do(act, str(form.get("stage") or ""))
        return RedirectResponse("/workers", 303)

    async def start_sweep(self, request: Request) -> Response:
        """Start a run over a collection."""
        form = await checked_form(request, self._access)
        swept = SWEPT.get(str(form.get("collection") or ""))
        if swept is None:
            raise HTTPException(404, "The collection is unknown.")
        await self._do(ops_sweeps.start, swept, None)
        return RedirectResponse("/sweeps", 303)

    async def stop_sweep(self, request: Request) -> Response:
        """Stop a run."""
        form = await checked_form(request, self._access)
        await self._do(ops_sweeps.stop, str(form.get("run") or "-"))
        return RedirectResponse("/sweeps", 303)

    async def _do(self, act: Callable[..., object], *arguments: object) -> None:
        """Run an action in a thread, and then read the sources again."""
        try:
            await run_in_threadpool(act, *arguments)
        except (ValueError, LookupError) as error:
            raise HTTPException(404, str(error)) from None
        self._sources.poller.refresh()

    def _expect_job(self, job_id: str) -> None:
        """Check that the job log has a job with this id, which may not be the beginning of one.

        Raises:
            LookupError: There is no such job, or no job log.
        """
        if self._sources.with_job_log:
            with within():
                if job_log_reader.history(job_id):
                    return
        raise LookupError("No dead letter that this page has read, and no job in the job log, has this id.")

    def letter_of(self, job_id: str) -> DeadLetter | None:
        """Return the latest dead letter of a job, if it has been read."""
        letters = self._sources.letters.snapshot.value.latest
        return next((letter for letter in letters if job_id and letter.job_id == job_id), None)

    def grouped(self) -> list[causes.Cause]:
        """Group the dead letters by cause."""
        failures = self._sources.failures.snapshot.value
        return causes.group(self._sources.letters.snapshot.value, failures, self._redrives.counted())

    def _cause(self, form: FormData) -> causes.Cause:
        stage, code = (str(form.get(name) or "") for name in ("stage", "code"))
        cause = next((cause for cause in self.grouped() if (cause.stage, cause.code) == (stage, code)), None)
        if cause is None:
            raise HTTPException(404, "This cause has no dead letters any more.")
        return cause

    def _start(self, wanted: Redrive) -> Response:
        if not self._redrives.start(wanted):
            raise HTTPException(409, "Another redrive, deletion or count is running: wait until it has ended.")
        if wanted.job:
            return RedirectResponse(f"/jobs/{quote(wanted.job, safe='')}", 303)
        return RedirectResponse("/failures", 303)


def _submit(url: str, folder: str, postback_url: str) -> str:
    """Send one image through the pipeline; return the id of its job.

    Raises:
        SubmitError: The job is invalid or could not be sent.
    """
    if not re.match(r"https?://(\[[0-9a-f:.]+\]|[^/\[])", url, re.IGNORECASE):
        raise SubmitError("The URL of an image must start with http:// or https://.")
    to = {"postback_url": postback_url} if postback_url else {"redirect_queue": get_settings().full_queue_name(NOWHERE)}
    submissions = submit.read_submissions([url], {}, to | ({"bucket_name": folder} if folder else {}))
    submit.validate(submissions)
    submit.send(submissions, lambda _: None)
    (job,) = submissions
    if job.error or job.job_id is None:
        raise SubmitError(job.error.message if job.error else "It could not be sent.")
    return job.job_id


def _confirmed(act: Act, cause: causes.Cause, form: FormData) -> Redrive:
    """Return the act that a visitor has confirmed: on the dead letters that had been counted then, and no more of them.

    Raises:
        HTTPException: 400, the form does not contain the number that the page showed.
    """
    number, until = (str(form.get(name) or "") for name in ("number", "until"))
    if not (re.fullmatch(r"[1-9]\d{0,8}", number) and re.fullmatch(r"\d{1,12}(\.\d{1,9})?", until)):
        raise HTTPException(400, "Confirm the number of dead letters on the page of failures.")
    return Redrive(cause.stage, cause.code, act, int(number), float(until))
