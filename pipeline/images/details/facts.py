"""Facts of a source image: in jobs, in the metadata of its objects, and in results (contract, section 4).

Without libraries of images, because every stage reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

#: Warnings about a source, in the order of results.
WARNINGS: Final = (
    "not_square",
    "below_1400",
    "above_3000",
    "has_alpha",
    "not_rgb",
    "animated",
    "wrong_content_type",
    "not_jpeg_or_png",
    "over_512_kb",
)

#: Bytes above which hosting services and validators of feeds advise against a cover (docs/images.md).
_MANY_BYTES: Final = 512 * 1024

#: The media types of each format: the registered ones, and older ones that servers still send.
#: https://www.iana.org/assignments/media-types
_MEDIA_TYPES: Final[Mapping[str, frozenset[str]]] = {
    "JPEG": frozenset({"image/jpeg", "image/jpg", "image/pjpeg"}),
    "PNG": frozenset({"image/png", "image/x-png", "image/apng", "image/vnd.mozilla.apng"}),
    "GIF": frozenset({"image/gif"}),
    "WEBP": frozenset({"image/webp"}),
    "AVIF": frozenset({"image/avif", "image/avif-sequence"}),
    "BMP": frozenset({"image/bmp", "image/x-bmp", "image/x-ms-bmp"}),
    "TIFF": frozenset({"image/tiff"}),
    "ICO": frozenset({"image/x-icon", "image/vnd.microsoft.icon"}),
}

_Side = Annotated[int, Field(gt=0, lt=2**31)]
_Warning = Annotated[str, Field(pattern=f"^({'|'.join(WARNINGS)})$")]


@dataclass(frozen=True)
class SourceFacts:
    """The facts of a source."""

    width: _Side  #: pixels, upright
    height: _Side
    format: Annotated[str, Field(pattern="^[a-z]{3,5}$")]  #: of its bytes: `jpeg`, `png`, …
    color: Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]  #: mean of the picture
    thumbhash: Annotated[str, Field(pattern="^[A-Za-z0-9+/]{8,64}={0,2}$")]  #: base64
    bytes: Annotated[int, Field(gt=0, lt=2**53)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    #: Those that only decoding finds. They are stored with an object; `as_result` derives the others.
    warnings: Annotated[tuple[_Warning, ...], Field(max_length=len(WARNINGS))] = ()

    def as_result(self, *, has_wrong_type: bool) -> dict[str, Any]:
        """Return the `<field>_source` of a result, in the contract's order.

        Args:
            has_wrong_type: whether the host sent another Content-Type than that of the bytes.
        """
        names = ("width", "height", "bytes", "format", "sha256", "color", "thumbhash")
        derived = {
            "wrong_content_type": has_wrong_type,
            "not_jpeg_or_png": self.format not in ("jpeg", "png"),
            "over_512_kb": self.bytes > _MANY_BYTES,
        }
        warnings = [each for each in WARNINGS if each in self.warnings or derived.get(each)]
        return {name: getattr(self, name) for name in names} | {"warnings": warnings}

    def to_json(self) -> str:
        """Return the facts as JSON in ASCII, for the metadata of an object."""
        return _FACTS.dump_json(self).decode()


_FACTS: Final = TypeAdapter(SourceFacts)


def is_wrong_type(content_type: str, name: str) -> bool:
    """Return whether a Content-Type is that of another format. Without one, browsers look at the bytes.

    Args:
        content_type: the header, or an empty string.
        name: the format of the bytes, as in Pillow.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    return bool(media_type) and media_type not in _MEDIA_TYPES[name]


def parse_facts(text: str) -> SourceFacts | None:
    """Return the facts that `to_json` returned `text` for, or None if it has another form."""
    try:
        return _FACTS.validate_json(text)
    except ValidationError:
        return None


def facts_from(data: Any, *, size: int, sha256: str) -> SourceFacts:
    """Return the facts of a source from the answer of a sandbox, which is not trusted.

    Args:
        data: the answer.
        size: bytes of the source.
        sha256: of the source, in hex.

    Raises:
        ValueError: the answer has another form.
    """
    if not isinstance(data, dict):
        raise ValueError("the facts are not an object")
    return _FACTS.validate_python({**data, "bytes": size, "sha256": sha256})
