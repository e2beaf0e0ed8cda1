"""Renders pages from templates, and answers live updates with the parts of a page that changed.

A template wraps each part that changes in `{% call live("id") %}`. The part carries its version, a hash that ignores
the words of times ("12 s ago"), because the script of the page keeps these up to date by itself. A live update sends
the versions it has in the header `X-Live`, and gets the other parts alone, or 204 if there are none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from pipeline.dashboard.auth import Access
from pipeline.dashboard.views import causes, filters
from pipeline.ops.advice import advice, is_permanent
from pipeline.text import format_duration, plural

HERE = Path(__file__).parent

#: The words of a time, which the script of the page updates.
_TIME_WORDS = re.compile(r"(<time\b[^>]*>)[^<]*")

#: Header with the versions that a page has: `id=version id=version`.
LIVE = "x-live"


class LiveParts:
    """Collects the parts of one page that change; templates call it as `live`."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[str, Markup]] = {}

    def __call__(
        self, id_: str, tag: str = "div", attributes: Mapping[str, str] | None = None, *, caller: Callable[[], str]
    ) -> Markup:
        """Return the element `tag` with the content of the call block."""
        content = Markup(caller())  # noqa: S704 - Jinja has escaped it
        version = version_of(content)
        more = Markup("").join(Markup(' {}="{}"').format(*each) for each in (attributes or {}).items())
        part = Markup('<{0} id="{1}" data-live data-version="{2}"{3}>{4}</{0}>').format(
            Markup(tag),  # noqa: S704 - constants of the templates
            id_,
            version,
            more,
            content,
        )
        self._parts[id_] = (version, part)
        return part

    def changed(self, known: str) -> str:
        """Return the parts whose versions differ from those in the header `known`."""
        versions = dict(pair.split("=", 1) for pair in known.split() if "=" in pair)
        return "\n".join(part for id_, (version, part) in self._parts.items() if versions.get(id_) != version)


def version_of(html: str) -> str:
    """Return a hash of a part of a page without the words of its times."""
    return blake2b(_TIME_WORDS.sub(r"\1", html).encode(), digest_size=6).hexdigest()


class Renderer:
    """Renders the templates for the visitors that `access` admits."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            ago=filters.ago,
            until=filters.until,
            clock=filters.clock,
            number=filters.number,
            code=filters.code,
            seconds=format_duration,
            plural=plural,
            anchor=causes.anchor,
            advice=lambda failure: advice(failure.stage, failure.code),
            permanent=lambda failure: is_permanent(failure.stage, failure.code),
        )

    def render(self, request: Request, template: str, status: int, values: Mapping[str, Any]) -> Response:
        """Render a page, or for a live update only what changed."""
        live = LiveParts()
        common = {
            "page": "",
            "csrf": self._access.csrf,
            "with_token": self._access.token is not None,
            "now": datetime.now(UTC),
            "live": live,
        }
        html = self._templates.get_template(template).render(common | dict(values))
        if LIVE in request.headers and status == 200:
            changed = live.changed(request.headers[LIVE])
            return HTMLResponse(changed) if changed else Response(status_code=204)
        return HTMLResponse(html, status)
