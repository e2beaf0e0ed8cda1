"""What strangers wrote, as it may be shown."""

from __future__ import annotations


def printable(text: str, but: str = "") -> str:
    """`text` with `?` for each character that is not to be seen, those in `but` excepted.

    So a terminal, a line of a log or a page gets no control sequence, and no mark that turns the direction of writing.

    >>> printable("a\\x1b[31m\\u202eb\\n", but="\\n")
    'a?[31m?b\\n'
    """
    return "".join(char if char.isprintable() or char in but else "?" for char in text)
