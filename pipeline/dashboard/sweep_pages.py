"""The pages of sweeps: their runs, what a run would take, and the documents with error marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.clients.mongo import within
from pipeline.dashboard import thumbnails
from pipeline.dashboard.sources import Sources
from pipeline.dashboard.views import sweeps
from pipeline.settings import Settings
from pipeline.sweeps.documents import SWEPT, Swept
from pipeline.sweeps.marks import list_marks

#: Seconds that a browser may cache a picture of a replaced cover.
PICTURE_AGE = 86_400

#: Renders a page: called with the request, the template, the place in the navigation, and the template's values.
ShowPage = Callable[..., Response]


class SweepPages:
    """The handlers of the pages of sweeps."""

    def __init__(self, settings: Settings, sources: Sources, page: ShowPage) -> None:
        self._settings = settings
        self._sources = sources
        self._page = page

    def routes(self) -> Iterable[Route]:
        """Yield the route of every page."""
        yield Route("/sweeps", self.runs)
        yield Route("/sweeps/preview/{collection}", self.preview)
        yield Route("/sweeps/marks/{collection}", self.marks)
        yield Route("/sweeps/changed/{run}", self.changed)
        yield Route("/sweeps/changed/{run}/{cover}/{which}", self.picture)

    def runs(self, request: Request) -> Response:
        """Show the runs, and when the next ones are due."""
        self._sources.poller.activate()
        snapshot = self._sources.sweeps.snapshot
        with_database = self._settings.database_url is not None
        return self._page(
            request,
            "sweeps.html",
            "/sweeps",
            runs=snapshot,
            sweeps=snapshot.value,
            with_database=with_database,
            next_runs=sweeps.next_runs(self._settings, datetime.now(UTC)) if with_database else [],
        )

    def preview(self, request: Request) -> Response:
        """Show what a run over a collection would take, and the button that starts it."""
        swept = self._swept(request)
        total, rows = sweeps.preview(swept)
        return self._page(request, "sweep_preview.html", "/sweeps", collection=swept.name, total=total, rows=rows)

    def marks(self, request: Request) -> Response:
        """Show the documents of a collection that have error marks."""
        swept = self._swept(request)
        with within():
            found = list_marks(swept, sweeps.MARKED)
        return self._page(
            request, "sweep_marks.html", "/sweeps", collection=swept.name, marked=found, shown=sweeps.MARKED
        )

    def changed(self, request: Request) -> Response:
        """Show the covers that a re-check found replaced, before and after."""
        run = request.path_params["run"]
        with within():
            found = sweeps.changed_covers(run)
        return self._page(request, "sweep_changed.html", "/sweeps", run=run, covers=found, shown=sweeps.MARKED)

    def picture(self, request: Request) -> Response:
        """Serve a rendition of a replaced cover, before or after."""
        with within():
            url = sweeps.picture_of(**request.path_params)
        return thumbnails.serve(url, PICTURE_AGE)

    def _swept(self, request: Request) -> Swept:
        swept = SWEPT.get(request.path_params["collection"])
        if swept is None:
            raise HTTPException(404, "The collection is unknown.")
        return swept
