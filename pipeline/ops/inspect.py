"""Inspects covers: downloads or reads them as fetch does, and renders them as resize does, without queues and S3."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from requests import Response

from pipeline.errors import PermanentError, PipelineError
from pipeline.images.details.facts import is_wrong_type
from pipeline.images.encoding import ENCODER_SETTINGS
from pipeline.images.identify import identify
from pipeline.images.sandbox import examine
from pipeline.images.signatures import format_of
from pipeline.job import Validators
from pipeline.net.download import Download, download_if_changed
from pipeline.net.download_memory import download_memory
from pipeline.net.http_errors import shown
from pipeline.settings import get_settings
from pipeline.text import printable, shorten

#: The headers of responses that decide about a cover, or about the next request for it.
HEADERS = (
    *("Content-Type", "Content-Length", "Content-Encoding", "ETag", "Last-Modified"),
    *("Vary", "Cache-Control", "Retry-After"),
)

#: Maximum characters of a header to show.
MAX_HEADER = 120


@dataclass(frozen=True)
class Step:
    """One response on the way to a source."""

    url: str  #: without user, password and query
    status: int
    headers: dict[str, str]  #: of `HEADERS`, if the response has them


@dataclass(frozen=True)
class Rendition:
    """One rendition of a source."""

    name: str
    format: str  #: in lower case
    quality: float | None  #: of its encoder; None for formats without such a setting
    data: bytes


@dataclass(frozen=True)
class Refusal:
    """Why a source has no renditions."""

    code: str
    message: str


@dataclass
class Inspection:
    """All that is known of a source. Facts that the inspection did not reach are None or empty."""

    source: str  #: its URL without user, password and query, or its path
    way: list[Step] = field(default_factory=list)  #: redirects, then the last response
    declared_type: str | None = None  #: the Content-Type
    format: str | None = None  #: of its bytes, in lower case
    bytes: int | None = None
    width: int | None = None  #: in pixels, upright
    height: int | None = None
    colours: str | None = None
    profile: str | None = None  #: the name of the embedded colour profile
    orientation: int | None = None  #: as in EXIF
    warnings: list[str] = field(default_factory=list)  #: as in results with details
    conditional: bool | None = None  #: whether the host confirms that nothing has changed; None if not known
    renditions: list[Rendition] = field(default_factory=list)
    cpu_seconds: float | None = None  #: for decoding and encoding
    memory_bytes: int | None = None  #: maximum of the decoding process
    refusal: Refusal | None = None


def inspect(source: str) -> Inspection:
    """Inspect a URL or the path of a file. A source that the service would refuse has a `refusal`.

    Raises:
        OSError: the file cannot be read.
    """
    is_url = "://" in source
    found = Inspection(_public(source) if is_url else printable(source))
    try:
        download = _download(source, found.way) if is_url else Download(_read(Path(source)))
        _describe(found, download)
        if is_url:
            found.conditional = _is_confirmed(source, download.validators)
    except PipelineError as error:
        found.refusal = Refusal(error.code, error.message)
    return found


def _public(url: str) -> str:
    """Return a URL as output may show it. Queries and passwords may be secrets."""
    return f"{printable(url.partition('://')[0])}://{shown(url)}"


def _download(url: str, way: list[Step], validators: Validators | None = None) -> Download:
    def keep(url: str, response: Response) -> None:
        headers = {name: response.headers[name] for name in HEADERS if name in response.headers}
        clean = {name: shorten(printable(value), MAX_HEADER) for name, value in headers.items()}
        way.append(Step(_public(url), response.status_code, clean))

    with download_memory().share() as share:
        return download_if_changed(url, nullcontext, share=share, validators=validators, on_response=keep)


def _read(path: Path) -> bytes:
    """Read a file of at most as many bytes as a download may have."""
    most = get_settings().max_source_bytes
    with path.open("rb") as file:
        data = file.read(most + 1)
    if not data:
        raise PermanentError("empty", f"{printable(path.name)} is empty.")
    if len(data) > most:
        raise PermanentError("too_large", f"{printable(path.name)} is larger than {most:,} bytes.")
    return data


def _describe(found: Inspection, download: Download) -> None:
    """Add the facts and the renditions of a source, as far as it has any."""
    settings, image = get_settings(), download.image or b""
    found.declared_type = shorten(printable(download.content_type), MAX_HEADER) or None
    found.bytes, found.format = len(image), (format_of(image) or "").lower() or None
    identified = identify(image, max_pixels=settings.max_source_pixels)
    limits = {"max_pixels": settings.max_source_pixels, "max_decoded_pixels": settings.max_decoded_pixels}
    renditions, facts, examination = examine(image, settings.recipe, **limits)
    has_wrong_type = is_wrong_type(download.content_type, identified.format)
    found.width, found.height = facts.width, facts.height
    found.warnings = facts.as_result(has_wrong_type=has_wrong_type)["warnings"]
    for name, value in vars(examination).items():
        setattr(found, name, value)
    found.renditions = [_rendition(name, data) for name, data in renditions.items()]


def _rendition(name: str, data: bytes) -> Rendition:
    written = format_of(data) or ""
    return Rendition(name, written.lower(), ENCODER_SETTINGS.get(written, {}).get("quality"), data)


def _is_confirmed(url: str, validators: Validators | None) -> bool | None:
    """Ask a host whether the source has changed since a moment ago, as re-checks do. None if the request fails."""
    if validators is None:
        return False
    try:
        return _download(url, [], validators).image is None
    except PipelineError:
        return None
