"""The dashboard as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from pipeline.dashboard.auth import Access, Guard
from pipeline.dashboard.connections import LimitedProtocol
from pipeline.dashboard.pages import Pages
from pipeline.dashboard.redrives import Redrives
from pipeline.dashboard.rendering import HERE
from pipeline.dashboard.sources import Sources
from pipeline.errors import PipelineError, SettingsError
from pipeline.settings import Settings

#: Seconds that running requests may take after the signal to stop.
STOP_TIMEOUT = 2


def make_app(settings: Settings, access: Access) -> Guard:
    """Build the application behind its guard. Its sources are polled while it runs."""
    sources = Sources(settings)
    redrives = Redrives(sources.letters_lock, on_end=sources.letters_changed)
    pages = Pages(settings, access, sources, redrives)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with sources.poller.running():
            yield
        await run_in_threadpool(redrives.stop)
        await run_in_threadpool(sources.wait_for_letters)  # so that other readers see the dead letters again at once

    app = Starlette(
        routes=[*pages.routes(), Mount("/static", StaticFiles(directory=HERE / "static"))],
        exception_handlers={
            HTTPException: pages.on_http_error,
            PipelineError: pages.on_failure,
            SettingsError: pages.on_failure,
            ClientDisconnect: lambda *_: Response(status_code=400),  # no one reads it, and no traceback is logged
            500: pages.on_error,
        },
        middleware=[Middleware(GZipMiddleware, minimum_size=500)],
        lifespan=lifespan,
    )
    return Guard(app, access)  # outermost: Starlette's own answer to an exception bypasses its middleware


def server_config(app: Guard) -> uvicorn.Config:
    """Configure uvicorn: limited connections, no Server header, no queries in logs, no trust in headers of a proxy."""
    return uvicorn.Config(
        app,
        http=LimitedProtocol,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_TIMEOUT,
        ws="none",
    )
