"""Shared by the readers of all formats: the file that they read, within a budget, and their results.

The readers are Python, which cannot read or write outside of the file's bytes. They reach those through a `File` alone,
which counts what it returns. So no file costs more than its budget, whatever its format and wherever its parts lie.
ValueError, IndexError and struct.error mean that the file has no picture.
"""

from __future__ import annotations

import re
import struct
from typing import Any, Final, Protocol

from pipeline.errors import PermanentError

Size = tuple[int, int]  # width and height in pixels

#: Maximum bytes of an embedded profile; larger ones are ignored. Profiles of printing presses have 0.5 to 3 MB.
MAX_PROFILE_BYTES: Final = 16_777_216

#: Maximum parts of a file: numbers, and slices of its bytes. Reading as many takes 0.1 s and 15 MB. A PNG needs three
#: for each chunk and most have a hundred chunks; a comment of 50 MB in a GIF needs one for each 255 bytes.
MAX_PARTS: Final = 200_000
#: How often all bytes of a file may be copied or searched, and bytes in addition, for small files.
_PASSES: Final = 4
_MORE_BYTES: Final = 65_536


class Container(Protocol):
    """A file whose structure has been read, and of whose pixels nothing is known."""

    @property
    def size(self) -> Size:
        """The size that is decoded: of the whole canvas, and at least that of a tile."""

    @property
    def has_alpha(self) -> bool:
        """Whether the file says that the first frame may have transparent pixels."""


class _Budget:
    """The parts and bytes that may still be read."""

    def __init__(self, parts: int, size: int) -> None:
        self.parts = self.limit = parts
        self.bytes = _PASSES * size + _MORE_BYTES


class File:
    """The bytes of a file, and the budget for reading them.

    Each method raises PermanentError (`too_large`) once the budget is spent. Offsets are from the start of the file.
    """

    def __init__(self, source: bytes, *, start: int = 0, budget: _Budget | None = None) -> None:
        self._source, self._start = source, start
        self._view = memoryview(source)[start:]
        self._budget = budget or _Budget(MAX_PARTS, len(source))

    def __len__(self) -> int:
        return len(self._view)

    def after(self, offset: int) -> File:
        """Return the file inside this one that begins at an offset. Both have one budget."""
        return File(self._source, start=self._start + offset, budget=self._budget)

    def limit_parts(self, limit: int) -> None:
        """Lower the budget to the parts that a decoder can bear, for a format whose decoder is slow with many."""
        budget = self._budget
        budget.parts -= max(0, budget.limit - limit)
        budget.limit = min(budget.limit, limit)

    def spend(self, parts: int = 1, size: int = 0) -> None:
        """Count parts, such as those that a file only declares, and bytes.

        Raises:
            PermanentError: `too_large`: the budget is spent.
        """
        budget = self._budget
        budget.parts -= parts
        budget.bytes -= max(0, size)
        if budget.parts < 0:
            raise PermanentError("too_large", f"The image has too many parts; {budget.limit} are accepted.")
        if budget.bytes < 0:
            raise PermanentError("too_large", "The image has parts that contain the same bytes too often.")

    def byte(self, at: int) -> int:
        """Return one byte.

        Raises:
            IndexError: the file ends before it.
        """
        self.spend()
        return self._view[at]

    def unpack(self, layout: str, at: int) -> tuple[Any, ...]:
        """Return the numbers at an offset, each of which is a part.

        Args:
            layout: as in `struct`.
            at: their offset. A file may contain one of 64 bits.

        Raises:
            ValueError: the offset is not in the file.
            struct.error: the file ends before the last of them.
        """
        if not 0 <= at <= len(self._view):
            raise ValueError(f"the offset {at} is not in the file")
        values = struct.unpack_from(layout, self._view, at)
        self.spend(len(values))
        return values

    def copy(self, start: int, end: int) -> bytes:
        """Return bytes up to `end`, or up to the end of the file."""
        self.spend(size=min(end, len(self._view)) - start)
        return bytes(self._view[start:end])

    def view(self, start: int, end: int | None = None) -> memoryview:
        """Return bytes that are kept for a decoder, or read later if at all. They are not copied."""
        self.spend()
        return self._view[start:end]

    def find(self, pattern: re.Pattern[bytes], at: int) -> int | None:
        """Return the offset of the next match of a short pattern."""
        found = pattern.search(self._view, at)
        self.spend(size=(found.start() if found else len(self._view)) - at)
        return found.start() if found else None

    def count(self, piece: bytes, at: int) -> int:
        """Return how often a piece occurs from an offset on."""
        self.spend(size=len(self._view) - at)
        return self._source.count(piece, self._start + at)

    @property
    def whole(self) -> bytes:
        """All bytes, for a decoder that gets the file as it is."""
        return self._source if not self._start else bytes(self._view)


def check_count(count: int, limit: int, parts: str) -> None:
    """Refuse a file with too many parts.

    Raises:
        PermanentError: `too_large`.
    """
    if count > limit:
        raise PermanentError("too_large", f"The image has {count} {parts}; {limit} are accepted.")
