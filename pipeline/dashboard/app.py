"""The dashboard as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from pipeline.dashboard.guards import Access, Guard
from pipeline.dashboard.pages import HERE, Pages
from pipeline.dashboard.redrives import Redrives
from pipeline.dashboard.sources import Sources
from pipeline.dashboard.submissions import Submissions
from pipeline.settings import Settings


def make_app(settings: Settings, access: Access) -> Starlette:
    """The application; its sources are read from its start to its end."""
    sources = Sources(settings)
    redrives = Redrives(sources.reading_letters, after=sources.letters_changed)
    pages = Pages(settings, access, sources, Submissions(), redrives)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with sources.running():
            yield

    return Starlette(
        routes=[*pages.routes(), Mount("/static", StaticFiles(directory=HERE / "static"))],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={HTTPException: pages.on_http_error, 500: pages.on_error},
        lifespan=lifespan,
    )
