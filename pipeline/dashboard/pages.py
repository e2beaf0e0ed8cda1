"""The pages and the actions of their forms.

Pages are rendered from polled values. Only single jobs and filtered lists of jobs are read during the request.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from pipeline.dashboard import auth, causes, filters, flow, jobs, thumbnails
from pipeline.dashboard.auth import Access, checked_form
from pipeline.dashboard.jobs import JobView
from pipeline.dashboard.redrives import Redrives
from pipeline.dashboard.sources import LETTERS, Sources
from pipeline.dashboard.submissions import Submissions
from pipeline.errors import PipelineError
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.monitoring.job_log.reader import JobHistory
from pipeline.monitoring.queue_depths import DEAD
from pipeline.ops.dead_letters.actions import RATE
from pipeline.ops.submit import SubmitError
from pipeline.settings import Settings
from pipeline.storage.s3 import S3Error
from pipeline.text import format_duration, plural

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent

#: Maximum number of jobs on the overview, and on the page of jobs.
FEW, MANY = 12, 100

#: Seconds that a browser may cache a rendition.
THUMBNAIL_AGE = 3600

#: Argument `failed` of the job log by filter of the jobs page.
OUTCOMES = {"": None, "failed": True, "well": False}


@dataclass(frozen=True)
class Banner:
    """A notice at the top of the page; `kind` is bad or note."""

    kind: str
    title: str
    text: str


class Pages:
    """The handlers of all requests."""

    def __init__(
        self, settings: Settings, access: Access, sources: Sources, submissions: Submissions, redrives: Redrives
    ) -> None:
        self._settings = settings
        self._access = access
        self._sources = sources
        self._submissions = submissions
        self._redrives = redrives
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            ago=filters.ago, clock=filters.clock, number=filters.number, seconds=format_duration, plural=plural
        )

    def routes(self) -> Iterable[Route]:
        """Yield the route of every page and action."""
        yield Route("/", self.overview)
        yield Route("/jobs", self.jobs)
        yield Route("/jobs/{job_id}", self.job)
        yield Route("/thumbnails/{job_id}/{number:int}/{name}", self.picture)
        yield Route("/failures", self.failures)
        yield Route("/sweeps", self.sweeps)
        yield Route("/submit", self.submit, methods=["POST"])
        yield Route("/submit", lambda _: RedirectResponse("/", 303))  # live updates of a page with a rejected form
        yield Route("/redrive", self.redrive, methods=["POST"])
        yield Route("/login", self.login, methods=["GET"])
        yield Route("/login", self.log_in, methods=["POST"])
        yield Route("/logout", self.logout, methods=["POST"])
        yield Route("/livez", lambda _: PlainTextResponse("ok"))

    # Pages.

    def overview(self, _: Request) -> Response:
        return self._overview()

    def _overview(self, *, status: int = 200, wrong: str = "", form: Mapping[str, str] | None = None) -> Response:
        self._sources.activate()
        log = self._sources.job_log.snapshot
        minutes = log.value.minutes if self._with_job_log else None
        now = datetime.now(UTC)
        return self._page(
            "overview.html",
            "/",
            status=status,
            queues=self._sources.queues.snapshot,
            flow=flow.cards(self._sources.queues.snapshot.value, self._sources.history, minutes, now),
            jobs=self._latest_jobs()[:FEW],
            causes=self._causes(),
            letters=self._sources.letters.snapshot,
            job_log=log,
            runs=self._sources.sweeps.snapshot,
            sweeps=self._sources.sweeps.snapshot.value,
            with_database=self._settings.database_url is not None,
            wrong=wrong,
            form=form or dict.fromkeys(("url", "folder", "postback_url"), ""),
        )

    def jobs(self, request: Request) -> Response:
        """Show the latest jobs, all or by outcome."""
        self._sources.activate()
        outcome = request.query_params.get("outcome", "")
        outcome = outcome if outcome in OUTCOMES else ""
        banners: list[Banner] = []
        failed = OUTCOMES[outcome]
        found = [job for job in self._latest_jobs() if failed in {None, job.status in job_log_reader.FAILED}]
        if self._with_job_log and not self._sources.job_log.snapshot.error:  # otherwise each request would wait for it
            try:
                found = [jobs.of_history(history) for history in job_log_reader.latest(MANY, failed=failed)]
            except PipelineError as error:
                banners.append(Banner("bad", "The job log does not answer", error.message))
        return self._page(
            "jobs.html",
            "/jobs",
            banners=banners,
            jobs=found[:MANY],
            outcome=outcome,
            job_log=self._sources.job_log.snapshot,
        )

    def job(self, request: Request) -> Response:
        """Show the history of one job."""
        self._sources.activate()
        job_id = request.path_params["job_id"]
        banners: list[Banner] = []
        try:
            view = self._job(job_id)
        except PipelineError as error:
            banners.append(Banner("bad", "The job log does not answer", error.message))
            submission = self._submissions.get(job_id)
            view = jobs.of_submission(submission) if submission else None
        if view is None:
            failure = self._sources.job_log.snapshot.error or (banners[0].text if banners else "")
            text = failure or "Neither the job log nor this dashboard has a job with this id."
            return self._error(503 if failure else 404, "No such job", text)
        return self._page("job.html", "/jobs", banners=banners, job=view)

    def failures(self, _: Request) -> Response:
        """Show failures by cause, with their dead letters."""
        self._sources.activate()
        found = self._causes()
        return self._page(
            "failures.html",
            "/failures",
            letters=self._sources.letters.snapshot,
            causes=found,
            past=causes.past(found, self._sources.job_log.snapshot.value.failures),
            dead=self._dead(),
            read_at_most=LETTERS,
            redrive=self._redrives.shown,
            rate=RATE,
        )

    def sweeps(self, _: Request) -> Response:
        """Show the runs of sweeps."""
        self._sources.activate()
        snapshot = self._sources.sweeps.snapshot
        with_database = self._settings.database_url is not None
        return self._page("sweeps.html", "/sweeps", runs=snapshot, sweeps=snapshot.value, with_database=with_database)

    def picture(self, request: Request) -> Response:
        """Serve a rendition of a known job from the bucket."""
        job_id, number, name = (request.path_params[key] for key in ("job_id", "number", "name"))
        try:
            history = self._history(job_id)
            url = jobs.urls_of(job_id, history, self._submissions.get(job_id), number).get(name)
            key = thumbnails.key_of(url) if url else None
            if key is None:
                return PlainTextResponse("There is no such rendition.", 404)
            data, content_type = thumbnails.read(key)
        except S3Error as error:
            return PlainTextResponse(error.message, 404 if error.is_absent else 502)
        except PipelineError as error:
            return PlainTextResponse(error.message, 503)
        return Response(data, media_type=content_type, headers={"Cache-Control": f"private, max-age={THUMBNAIL_AGE}"})

    # Actions.

    async def submit(self, request: Request) -> Response:
        """Submit an image, and redirect to its page."""
        form = await checked_form(request, self._access)
        given = {name: str(form.get(name) or "").strip() for name in ("url", "folder", "postback_url")}
        try:
            job = await run_in_threadpool(
                self._submissions.send, given["url"], folder=given["folder"], postback_url=given["postback_url"]
            )
        except (SubmitError, PipelineError) as error:
            wrong = str(error)
            return await run_in_threadpool(lambda: self._overview(status=422, wrong=wrong, form=given))
        self._sources.refresh()
        return RedirectResponse(f"/jobs/{job.job_id}", 303)

    async def redrive(self, request: Request) -> Response:
        """Start a redrive of the dead letters of one cause, in the background."""
        form = await checked_form(request, self._access)
        stage, code = (str(form.get(name) or "") for name in ("stage", "code"))
        cause = next((cause for cause in self._causes() if (cause.stage, cause.code) == (stage, code)), None)
        if cause is None:
            raise HTTPException(404, "This cause has no dead letters any more.")
        if not self._redrives.start(stage, code, cause.sendable):
            raise HTTPException(409, "Another redrive is running: wait until it has ended.")
        return RedirectResponse("/failures", 303)

    def login(self, _: Request) -> Response:
        """Show the form for the token."""
        if self._access.token is None:
            return RedirectResponse("/", 303)
        return self._render("login.html", 200, wrong="")

    async def log_in(self, request: Request) -> Response:
        """Start a session if the token is correct."""
        form = await checked_form(request, self._access)
        scheme = request.headers.get("x-forwarded-proto", request.url.scheme)
        response = await auth.log_in(str(form.get("token") or ""), self._access, over_tls=scheme == "https")
        return response or self._render("login.html", 401, wrong="This token is wrong.")

    async def logout(self, request: Request) -> Response:
        """End the session."""
        await checked_form(request, self._access)
        return auth.log_out()

    # Helpers.

    @property
    def _with_job_log(self) -> bool:
        return self._settings.jobs_mongo_url is not None

    def _history(self, job_id: str) -> JobHistory | None:
        if not self._with_job_log:
            return None
        snapshot = self._sources.job_log.snapshot
        if snapshot.error:  # asking it again would only delay the page
            return next((history for history in snapshot.value.latest if history.id == job_id), None)
        return job_log_reader.history(job_id)

    def _job(self, job_id: str) -> JobView | None:
        if history := self._history(job_id):
            return jobs.of_history(history)
        submission = self._submissions.get(job_id)
        return jobs.of_submission(submission) if submission else None

    def _latest_jobs(self) -> list[JobView]:
        """Return jobs submitted here that are not in the job log yet, followed by the jobs of the job log."""
        logged = [jobs.of_history(history) for history in self._sources.job_log.snapshot.value.latest]
        known = {job.id for job in logged}
        ours = [jobs.of_submission(job) for job in self._submissions.latest() if job.job_id not in known]
        if self._with_job_log:
            ours = [job for job in ours if job.status == "under_way"]
        return [*ours, *logged]

    def _causes(self) -> list[causes.Cause]:
        return causes.group(self._sources.letters.snapshot.value, self._sources.job_log.snapshot.value.failures)

    def _dead(self) -> int:
        """Return SQS's count of dead letters."""
        found = self._sources.queues.snapshot.value
        return sum(depth.waiting + depth.in_flight for depth in found if depth.lane == DEAD)

    def _banners(self) -> list[Banner]:
        banners = []
        titles: Mapping[str, str] = {
            "queues": "SQS does not answer",
            "job_log": "The job log does not answer",
            "letters": "The dead letters cannot be read",
            "sweeps": "The sweeps cannot be read",
        }
        for name, title in titles.items():
            snapshot = getattr(self._sources, name).snapshot
            if snapshot.error:
                since = f" This page shows data from {filters.clock(snapshot.at)}." if snapshot.at else ""
                banners.append(Banner("bad", title, f"{snapshot.error}{since}"))
        return banners

    def _page(
        self, template: str, page: str, *, status: int = 200, banners: Iterable[Banner] = (), **values: Any
    ) -> Response:
        return self._render(
            template,
            status,
            page=page,
            banners=[*banners, *self._banners()],
            queues_of=self._settings.queue_namespace,
            bucket=self._settings.s3_bucket,
            with_job_log=self._with_job_log,
            now=datetime.now(UTC),
            **values,
        )

    def _render(self, template: str, status: int, **values: Any) -> Response:
        common = {"page": "", "csrf": self._access.csrf, "with_token": self._access.token is not None}
        return HTMLResponse(self._templates.get_template(template).render(common | values), status)

    def _error(self, status: int, title: str, text: str) -> Response:
        return self._render("error.html", status, page="/none", title=title, text=text)

    def on_http_error(self, _: Request, error: Exception) -> Response:
        """Render an HTTP error as a page."""
        status, detail = 500, ""
        if isinstance(error, HTTPException):
            status, detail = error.status_code, error.detail
        titles = {403: "Not permitted", 404: "Not found", 405: "Method not allowed", 409: "Not now"}
        return self._error(status, titles.get(status, "Something went wrong"), detail)

    def on_error(self, _: Request, error: Exception) -> Response:
        """Render an unexpected error as a page; Starlette logs the traceback."""
        logger.error("could not render a page (%s)", type(error).__name__)
        return self._error(
            500, "Something went wrong", f"The dashboard failed with {type(error).__name__}. See its log."
        )
