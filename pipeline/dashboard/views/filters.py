"""Filters of the templates: numbers, times and marked text for people."""

from __future__ import annotations

import re
from datetime import datetime

from markupsafe import Markup, escape

from pipeline.text import format_duration


def ago(moment: datetime, now: datetime) -> str:
    """Format a past time: `12 s ago`, `3 min ago`, `5 days ago`; `just now` within two seconds or in the future."""
    seconds = (now - moment).total_seconds()
    return "just now" if seconds < 2 else f"{format_duration(seconds, whole=True)} ago"


def until(moment: datetime, now: datetime) -> str:
    """Format a future time: `in 58 s`; `now` if it has come."""
    seconds = (moment - now).total_seconds()
    return "now" if seconds < 1 else f"in {format_duration(seconds, whole=True)}"


def number(value: int) -> str:
    """Format `12345` as `12,345`."""
    return f"{value:,}"


def clock(moment: datetime) -> str:
    """Format the full time in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def code(text: str) -> Markup:
    """Escape a text, and show its parts in back-ticks as code."""
    return Markup(re.sub(r"`([^`\n]{1,200})`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before
