"""Types and helpers that the readers of all formats share.

The readers are Python, which cannot read or write outside of the file's bytes. Each looks at a bounded number of parts,
so that no file costs more than its length. ValueError, IndexError and struct.error mean that the file has no picture.
"""

from __future__ import annotations

from typing import Final, Protocol

from pipeline.errors import PermanentError

Size = tuple[int, int]  # width and height in pixels

#: Maximum bytes of an embedded profile; larger ones are ignored. Profiles of printing presses have 0.5 to 3 MB.
MAX_PROFILE_BYTES: Final = 16_777_216


class Container(Protocol):
    """A file whose structure has been read, and of whose pixels nothing is known."""

    @property
    def size(self) -> Size:
        """The size that is decoded: of the whole canvas, and at least that of a tile."""

    @property
    def has_alpha(self) -> bool:
        """Whether the picture may have transparent pixels. Only known for formats that renditions do not keep."""


def check_count(count: int, limit: int, parts: str) -> None:
    """Refuse a file with too many parts.

    Raises:
        PermanentError: `too_large`.
    """
    if count > limit:
        raise PermanentError("too_large", f"The image has {count} {parts}; {limit} are accepted.")
