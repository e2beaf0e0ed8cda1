"""Text for people: untrusted strings made safe to print, ages and durations, plurals."""

from __future__ import annotations

import re
import signal
from datetime import timedelta

#: Units of an age on the command line, in seconds.
_AGE_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}

#: Units of a duration: the limit in seconds below which each is used, its size in seconds, and its name.
_DURATION_UNITS = ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h"), (float("inf"), 86400, "days"))


#: A zero-width joiner between two emoji, the first perhaps with a skin tone or a variation selector.
_EMOJI = "\u2600-\u27bf\U0001f000-\U0001faff"
_EMOJI_JOINER = re.compile(f"(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])")


def printable(text: str, keep: str = "") -> str:
    r"""Replace every unprintable character with `?`, except the characters in `keep`.

    A terminal, a log line or a page then gets no control sequence and no mark that changes the writing direction. The
    zero-width joiner stays between two emoji, which it makes one.

    >>> printable("a\x1b[31m\u202eb\n", keep="\n")
    'a?[31m?b\n'
    """
    joiners = {match.start() for match in _EMOJI_JOINER.finditer(text)}
    return "".join(
        char if char.isprintable() or char in keep or index in joiners else "?" for index, char in enumerate(text)
    )


def shorten(text: str, limit: int) -> str:
    """Cut a text to at most `limit` characters; a text that was cut ends in "…".

    >>> shorten("example.org/cover.jpg", 12)
    'example.org…'
    """
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def parse_age(text: str) -> timedelta:
    """Parse `90s`, `30m`, `12h`, `7d` or `2w`.

    Raises:
        ValueError: The text has another form.
    """
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if not match:
        raise ValueError(f"{text!r} is not an age: write 90s, 30m, 12h, 7d or 2w")
    return timedelta(seconds=int(match[1]) * _AGE_UNITS[match[2]])


def format_duration(seconds: float, *, whole: bool = False) -> str:
    """Format a duration in a few characters: `23 ms`, `0.42 s`, `4.1 s`, `12 s`, `3 min`, `2.5 h`, `5 days`.

    Args:
        seconds: The duration; below zero counts as zero.
        whole: Whether to show whole numbers alone, as for a time ago: `4 s`, `2 h`.
    """
    seconds = max(0.0, seconds)
    if not whole and seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    _, size, name = next(unit for unit in _DURATION_UNITS if seconds < unit[0])
    digits = 0 if whole else 2 if seconds < 1 else 1 if seconds < 10 or name == "h" else 0
    return f"{seconds / size:.{digits}f} {name}"


def signal_name(number: int) -> str:
    """Return the name of a signal: `SIGKILL`, or `signal 60` if it has none, as most real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def plural(count: int, singular: str) -> str:
    """Format a count with its noun: `1 job`, `2 jobs`, `1,234 jobs`."""
    return f"{count:,} {singular}{'' if count == 1 else 's'}"
