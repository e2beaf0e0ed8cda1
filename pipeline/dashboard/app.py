"""The dashboard as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from pipeline.dashboard.auth import Access, Guard
from pipeline.dashboard.pages import HERE, Pages
from pipeline.dashboard.redrives import Redrives
from pipeline.dashboard.sources import Sources
from pipeline.dashboard.submissions import Submissions
from pipeline.settings import Settings

#: Seconds that requests under way may take when it is told to stop.
STOP_GRACE = 2


def make_app(settings: Settings, access: Access) -> Guard:
    """The application behind its guard; its sources are read from its start to its end."""
    sources = Sources(settings)
    redrives = Redrives(sources.reading_letters, after=sources.letters_changed)
    pages = Pages(settings, access, sources, Submissions(), redrives)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with sources.running():
            yield
        for end in (redrives.stop, sources.let_go):  # what they hold of the dead letters, others can see again at once
            await run_in_threadpool(end)

    app = Starlette(
        routes=[*pages.routes(), Mount("/static", StaticFiles(directory=HERE / "static"))],
        exception_handlers={HTTPException: pages.on_http_error, 500: pages.on_error},
        lifespan=lifespan,
    )
    return Guard(app, access)  # around all of it: what Starlette answers to a defect passes no middleware of its own


def server_config(app: Guard) -> uvicorn.Config:
    """How uvicorn serves it: no header says what it is, no log names a query, and nothing is read from a proxy's."""
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_GRACE,
        ws="none",
    )
