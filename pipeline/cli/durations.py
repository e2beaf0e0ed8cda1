"""Ages as people write them on the command line: `90s`, `30m`, `12h`, `7d`, `2w`."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_age(text: str) -> timedelta:
    """`90s`, `30m`, `12h`, `7d` or `2w` as a time; raises ValueError for anything else."""
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if not match:
        raise ValueError(f"{text!r} is no age: write 90s, 30m, 12h, 7d or 2w")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def shown_age(age: timedelta) -> str:
    """An age in the largest unit of which it has two, as `parse_age` reads it: `119m` is shown so, 120 minutes as `2h`.

    What lies in the future, for clocks differ, is `0s`.
    """
    seconds = max(0, int(age.total_seconds()))
    unit = next((unit for unit, size in _UNITS.items() if unit != "w" and seconds >= 2 * size), "s")
    return f"{seconds // _UNITS[unit]}{unit}"
