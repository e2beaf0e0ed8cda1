"""Facts of a source that only a person asks for: how it stores its colours, and the cost of rendering it.

Without libraries of images, as `facts`. The sandbox makes them in `examine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, TypeAdapter

from pipeline.text import printable

#: Maximum characters of a profile's name.
MAX_NAME: Final = 60

_Text = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(printable)]


@dataclass(frozen=True)
class Examination:
    """The result of examining a source."""

    colours: _Text  #: such as `RGB`, `CMYK`, `grey with alpha`
    profile: _Text | None  #: the name of the ICC profile, or None if it has none
    orientation: Annotated[int, Field(ge=1, le=8)]  #: as in EXIF
    cpu_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]  #: for decoding and encoding
    memory_bytes: int | None  #: maximum of the decoding process, or None if the system does not report it


_EXAMINATION: Final = TypeAdapter(Examination)


def examination_from(data: Any, *, memory: int | None) -> Examination:
    """Return the examination in the answer of a sandbox, which is not trusted.

    Raises:
        ValueError: the answer has another form.
    """
    if not isinstance(data, dict):
        raise ValueError("the examination is not an object")
    return _EXAMINATION.validate_python({**data, "memory_bytes": memory})
