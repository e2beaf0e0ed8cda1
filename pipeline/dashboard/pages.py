"""The pages.

They are rendered from polled values. Only single jobs and searches are read during the request, for at most
`PAGE_TIMEOUT`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from pipeline.clients.mongo import NO_ANSWER, within
from pipeline.dashboard import auth, thumbnails
from pipeline.dashboard.actions import Actions
from pipeline.dashboard.auth import Access, checked_form
from pipeline.dashboard.redrives import Redrives
from pipeline.dashboard.rendering import Renderer
from pipeline.dashboard.sources import FEW, Sources
from pipeline.dashboard.sweep_pages import SweepPages
from pipeline.dashboard.views import causes, filters, flow, jobs
from pipeline.dashboard.views.finding import LANES, OUTCOMES, STAGE_NAMES, Search
from pipeline.dashboard.views.jobs import JobView
from pipeline.errors import PipelineError
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.monitoring.job_log import search as job_log_search
from pipeline.monitoring.job_log.reader import JobHistory
from pipeline.monitoring.needs import of_retrying
from pipeline.monitoring.pauses import PAUSABLE
from pipeline.monitoring.processes import Process
from pipeline.monitoring.queue_depths import DEAD
from pipeline.monitoring.retrying import merged
from pipeline.monitoring.stalls import still_taking
from pipeline.ops import results
from pipeline.ops.dead_letters.actions import RATE
from pipeline.settings import Settings

logger = logging.getLogger(__name__)

#: Maximum number of jobs on one page of jobs. The overview has `FEW`.
MANY = 50

#: Seconds from the start of a request until reads of the job log for it are given up, and the least for the reads.
PAGE_TIMEOUT, MIN_TIMEOUT = 1.5, 0.05

#: Seconds that a browser may cache a rendition.
THUMBNAIL_AGE = 3600

#: Shortest beginning of an id that leads to a job, and the number of jobs to compare.
MIN_ID, MATCHES = 4, 2


#: States of processes that need no attention, which are listed after the others.
WELL = frozenset({"running", "stopped"})


@dataclass(frozen=True)
class Banner:
    """A notice at the top of the page; `kind` is bad or note."""

    kind: str
    title: str
    text: str


def _state(process: Process, now: datetime) -> str:
    if process.is_alive(now):
        return "not ready" if process.work.trouble else "running"
    return "stopped" if process.ended else "gone"


def _failed(title: str, error: str, since: str = "") -> Banner:
    """Return the banner of a source that cannot be read. MongoDB has one, whatever was asked of it."""
    if error == NO_ANSWER:
        title, _, error = error.partition(". ")
    return Banner("bad", title, f"{error}{since}")


class Pages:
    """The handlers of all pages, and of logging in and out."""

    def __init__(self, settings: Settings, access: Access, sources: Sources, redrives: Redrives) -> None:
        self._settings = settings
        self._access = access
        self._sources = sources
        self._redrives = redrives
        self._renderer = Renderer(access)
        self._actions = Actions(access, sources, redrives, self.overview)

    def routes(self) -> Iterable[Route]:
        """Yield the route of every page and action."""
        yield from self._actions.routes()
        yield Route("/", self.overview)
        yield Route("/jobs", self.jobs)
        yield Route("/jobs/{job_id}", self.job)
        yield Route("/thumbnails/{job_id}/{number:int}/{name}", self.picture)
        yield Route("/placeholders/{thumbhash}", thumbnails.placeholder)
        yield Route("/failures", self.failures)
        yield Route("/workers", self.workers)
        yield from SweepPages(self._settings, self._sources, self._page).routes()
        yield Route("/submit", lambda _: RedirectResponse("/", 303))  # live updates of a page with a rejected form
        yield Route("/login", self.login, methods=["GET"])
        yield Route("/login", self.log_in, methods=["POST"])
        yield Route("/logout", self.logout, methods=["POST"])
        yield Route("/livez", lambda _: PlainTextResponse("ok"))

    # Pages.

    def overview(self, request: Request, wrong: str = "", form: Mapping[str, str] | None = None) -> Response:
        """Show the overview; after a form that was refused, with the form and the reason."""
        self._sources.poller.activate()
        sources, now = self._sources, datetime.now(UTC)
        log = sources.job_log.snapshot
        minutes = log.value.minutes if self._with_job_log else None
        return self._page(
            request,
            "overview.html",
            "/",
            status=422 if wrong else 200,
            banners=self._sent(request),
            needs=sources.needs(now),
            queues=sources.queues.snapshot,
            seen=sources.processes.snapshot,
            flow=flow.cards(sources.queues.snapshot.value, sources.history, minutes, now, sources.stalled(now)),
            took=[job_log_reader.quantile(minutes or (), part) for part in (0.5, 0.95)],
            jobs=[jobs.of_history(history) for history in log.value.latest[:FEW]],
            causes=self._actions.grouped(),
            letters=sources.letters.snapshot,
            job_log=log,
            runs=sources.sweeps.snapshot,
            sweeps=sources.sweeps.snapshot.value,
            with_database=self._settings.database_url is not None,
            wrong=wrong,
            form=form or dict.fromkeys(("url", "folder", "postback_url"), ""),
        )

    def jobs(self, request: Request) -> Response:
        """Show the latest jobs, or the results of a search."""
        began = time.monotonic()
        self._sources.poller.activate()
        wanted = Search.of(request.query_params)
        banners: list[Banner] = []
        page = None
        found, following = self._known_jobs(wanted), ""
        if self._with_job_log and not self._sources.job_log.snapshot.error:  # otherwise each request would wait for it
            try:
                with within(max(MIN_TIMEOUT, began + PAGE_TIMEOUT - time.monotonic())):
                    page = job_log_search.search(wanted.filter, MANY, wanted.after)
                found, following = [jobs.of_history(history) for history in page.jobs], page.following
            except ValueError:
                raise HTTPException(404, "This part of the list does not exist.") from None
            except PipelineError as error:
                banners.append(_failed("The job log does not answer", error.message))
        return self._page(
            request,
            "jobs.html",
            "/jobs",
            banners=banners,
            jobs=found,
            search=wanted,
            following=wanted.link(after=following) if following else "",
            is_read=page is not None,
            cut_off=page.cut_off if page else "",
            lanes=LANES,
            outcomes=OUTCOMES,
            stages=STAGE_NAMES,
            job_log=self._sources.job_log.snapshot,
        )

    def job(self, request: Request) -> Response:
        """Show the history of one job, given its id or the beginning of it."""
        began = time.monotonic()
        self._sources.poller.activate()
        job_id = request.path_params["job_id"]
        banners: list[Banner] = []
        is_kept = False
        try:
            with within(max(MIN_TIMEOUT, began + PAGE_TIMEOUT - time.monotonic())):
                history = self._history(job_id)
                view = jobs.of_history(history) if history else None
                is_kept = view is not None and results.is_kept(view.id)
                ids = [] if view else self._ids_from(job_id)
        except PipelineError as error:
            banners.append(_failed("The job log does not answer", error.message))
            view, ids = None, []
        if view is None and ids:
            to = f"/jobs/{ids[0]}" if len(ids) == 1 else Search(text=job_id, lane="all").link()
            return RedirectResponse(to, 303)
        if view is None:
            failure = self._sources.job_log.snapshot.error or (banners[0].text if banners else "")
            if "sent" in request.query_params and self._with_job_log and not failure:
                return self._page(request, "job_sent.html", "/jobs")
            off = "The job log is off, so this page cannot show jobs."
            text = failure or ("The job log has no job with this id." if self._with_job_log else off)
            return self._error(request, 503 if failure else 404, "No such job", text)
        if "tried" in request.query_params and view.waits:
            banners.append(Banner("note", "Tried now", "The job waits no longer: it is tried within two minutes."))
        letter = self._actions.letter_of(view.id)
        redrive = self._redrives.shown
        return self._page(
            request,
            "job.html",
            "/jobs",
            banners=banners,
            job=view,
            letter=letter,
            is_kept=is_kept,
            redrive=redrive if redrive and redrive.job == view.id else None,
        )

    def failures(self, request: Request) -> Response:
        """Show failures by cause, with their dead letters."""
        self._sources.poller.activate()
        found, now = self._actions.grouped(), datetime.now(UTC)
        alive = [each for each in self._sources.processes.snapshot.value if each.is_alive(now)]
        retrying = merged((each for process in alive for each in process.work.retrying), now)
        return self._page(
            request,
            "failures.html",
            "/failures",
            letters=self._sources.letters.snapshot,
            causes=found,
            past=causes.past(found, self._sources.failures.snapshot.value),
            retrying=[of_retrying(each, now) for each in retrying[:MANY]],
            dead=self._dead(),
            redrive=self._redrives.shown,
            rate=RATE,
        )

    def workers(self, request: Request) -> Response:
        """Show the processes with their heartbeats."""
        self._sources.poller.activate()
        now = datetime.now(UTC)
        snapshot = self._sources.processes.snapshot
        return self._page(
            request,
            "workers.html",
            "/workers",
            seen=snapshot,
            processes=sorted(((each, _state(each, now)) for each in snapshot.value), key=lambda each: each[1] in WELL),
            stalled=self._sources.stalled(now),
            pausable=PAUSABLE,
            paused=self._sources.pauses.snapshot.value,
            still_taking={each: still_taking(each, snapshot.value, now) for each in PAUSABLE},
        )

    def picture(self, request: Request) -> Response:
        """Serve a rendition of a known job from the bucket."""
        job_id, number, name = (request.path_params[key] for key in ("job_id", "number", "name"))
        try:
            with within():
                history = self._history(job_id)
        except PipelineError:
            history = self._known(job_id)
        if history is None and self._with_job_log and self._sources.job_log.snapshot.error:
            return thumbnails.unknown()
        url = history.sources[number].urls.get(name) if history and number < len(history.sources) else None
        return thumbnails.serve(url, THUMBNAIL_AGE)

    # Logging in and out.

    def login(self, request: Request) -> Response:
        """Show the form for the token."""
        if self._access.token is None:
            return RedirectResponse("/", 303)
        to = request.query_params.get("to", "/")
        return self._renderer.render(request, "login.html", 200, {"wrong": "", "to": to})

    async def log_in(self, request: Request) -> Response:
        """Start a session if the token is correct."""
        form = await checked_form(request, self._access)
        to, token = str(form.get("to") or "/"), str(form.get("token") or "")
        client = auth.client_of(request.scope)
        response = await auth.log_in(token, self._access, client, to=to)
        wrong = {"wrong": "This token is wrong.", "to": to}
        return response or self._renderer.render(request, "login.html", 401, wrong)

    async def logout(self, request: Request) -> Response:
        """End the session."""
        await checked_form(request, self._access)
        return auth.log_out(request.headers, self._access)

    # Helpers.

    @property
    def _with_job_log(self) -> bool:
        return self._settings.jobs_mongo_url is not None

    def _history(self, job_id: str) -> JobHistory | None:
        if not self._with_job_log:
            return None
        if self._sources.job_log.snapshot.error:  # asking it again would only delay the page
            return self._known(job_id)
        return job_log_reader.history(job_id)

    def _known(self, job_id: str) -> JobHistory | None:
        """Return the history of one of the latest jobs, as it was last read."""
        latest = self._sources.job_log.snapshot.value.latest
        return next((history for history in latest if history.id == job_id), None)

    def _ids_from(self, prefix: str) -> list[str]:
        """Return the ids of the first jobs that begin with `prefix`."""
        if len(prefix) < MIN_ID or not self._with_job_log or self._sources.job_log.snapshot.error:
            return []
        return job_log_reader.matching(prefix.lower(), MATCHES)

    def _known_jobs(self, wanted: Search) -> list[JobView]:
        """Return the latest jobs of the lane that were read already, while the job log does not answer.

        They are too few to search in, so every other list is empty.
        """
        if wanted.is_narrow or wanted.after:
            return []
        known = self._sources.job_log.snapshot.value.latest
        return [jobs.of_history(job) for job in known if wanted.filter.lane in {None, job.lane}][:MANY]

    def _sent(self, request: Request) -> list[Banner]:
        """Return the notice of a job that was sent from the form, where no page can show it."""
        job_id = request.query_params.get("sent", "")
        if self._with_job_log or not re.fullmatch(r"[0-9a-f-]{36}", job_id):
            return []
        return [
            Banner("note", "Sent", f"The job has the id {job_id}. The job log is off, so this page cannot follow it.")
        ]

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
                banners.append(_failed(title, snapshot.error, since))
        return banners

    def _page(
        self, request: Request, template: str, page: str, *, status: int = 200, banners: Iterable[Banner] = (),
        **values: Any,
    ) -> Response:  # fmt: skip
        common = {
            "page": page,
            "banners": list({banner.title: banner for banner in [*self._banners(), *banners]}.values()),
            "queues_of": self._settings.queue_namespace,
            "bucket": self._settings.s3_bucket,
            "with_job_log": self._with_job_log,
        }
        return self._renderer.render(request, template, status, common | values)

    def _error(self, request: Request, status: int, title: str, text: str) -> Response:
        return self._renderer.render(request, "error.html", status, {"page": "/none", "title": title, "text": text})

    def on_http_error(self, request: Request, error: Exception) -> Response:
        """Render an HTTP error as a page."""
        status, detail = 500, ""
        if isinstance(error, HTTPException):
            status, detail = error.status_code, error.detail
        titles = {403: "Not permitted", 404: "Not found", 405: "Method not allowed", 409: "Not now", 503: "Not now"}
        response = self._error(request, status, titles.get(status, "Something went wrong"), detail)
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    def on_failure(self, request: Request, error: Exception) -> Response:
        """Render an error of MongoDB or S3, or a missing setting, as a page."""
        if isinstance(error, PipelineError):
            return self._error(request, 503, "Not now", error.message)
        return self._error(request, 404, "Not found", str(error))

    def on_error(self, request: Request, error: Exception) -> Response:
        """Render an unexpected error as a page; Starlette logs the traceback."""
        logger.error("could not render a page (%s)", type(error).__name__)
        return self._error(
            request, 500, "Something went wrong", f"The dashboard failed with {type(error).__name__}. See its log."
        )
