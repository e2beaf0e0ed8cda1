"""Numbers and times as people read them; the templates' filters."""

from __future__ import annotations

from datetime import datetime

#: Up to how many seconds a unit is used, how many it has, and its sign.
UNITS = ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h"), (float("inf"), 86400, "days"))


def ago(moment: datetime, now: datetime) -> str:
    """`12 s ago`, `3 min ago`, `2 h ago`, `5 days ago`; `just now` within two seconds, and for what is ahead."""
    seconds = (now - moment).total_seconds()
    if seconds < 2:
        return "just now"
    return f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """`12 s`, `3 min`, `2 h`, `5 days`."""
    _, size, sign = next(unit for unit in UNITS if seconds < unit[0])
    return f"{seconds / size:.0f} {sign}"


def duration(seconds: float) -> str:
    """How long something took: `23 ms`, `0.42 s`, `4.1 s`, `3 min`."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 1:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 60 else span(seconds)


def number(value: int) -> str:
    """`12,345`."""
    return f"{value:,}"


def clock(moment: datetime) -> str:
    """The moment in full, in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def plural(count: int, one: str, many: str = "") -> str:
    """`1 job`, `2 jobs`, `3 dead letters`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
