"""Filters of the templates: numbers and times for people."""

from __future__ import annotations

from datetime import datetime

from pipeline.text import format_duration


def ago(moment: datetime, now: datetime) -> str:
    """Format a past time: `12 s ago`, `3 min ago`, `5 days ago`; `just now` within two seconds or in the future."""
    seconds = (now - moment).total_seconds()
    return "just now" if seconds < 2 else f"{format_duration(seconds, whole=True)} ago"


def number(value: int) -> str:
    """Format `12345` as `12,345`."""
    return f"{value:,}"


def clock(moment: datetime) -> str:
    """Format the full time in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
