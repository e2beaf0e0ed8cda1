"""Inspects covers: downloads or reads them as fetch does, and renders them as resize does, without queues and S3."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from requests import Response

from pipeline.errors import PermanentError, PipelineError, RetryableError
from pipeline.images.content_id import content_id
from pipeline.images.details.facts import is_wrong_type
from pipeline.images.formats import ENCODER_SETTINGS
from pipeline.images.identify import format_of, identify
from pipeline.images.sandbox import Examined, examine
from pipeline.job import Validators
from pipeline.net.download import Download, OnResponse, download_if_changed
from pipeline.net.download_memory import download_memory
from pipeline.net.http_errors import shown
from pipeline.ops.advice import advice, is_permanent
from pipeline.settings import get_settings
from pipeline.stages import FETCH, RESIZE
from pipeline.text import format_duration, plural, printable, shorten

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
    headers: dict[str, str]  #: those of `HEADERS` that it has


@dataclass(frozen=True)
class Rendition:
    """One rendition of a source."""

    name: str
    width: int
    height: int
    format: str  #: in lower case
    quality: float | None  #: of its encoder; None for formats without such a setting
    data: bytes


@dataclass(frozen=True)
class Refusal:
    """Why a source has no renditions."""

    stage: str  #: the stage that would fail, or empty for a file that cannot be read
    code: str
    message: str
    advice: str = ""


@dataclass
class Inspection:
    """All that is known of a source. Facts that the inspection did not reach are None or empty."""

    source: str  #: its URL without user, password and query, or its path
    way: tuple[Step, ...] = ()  #: redirects, then the last response
    format: str | None = None  #: of its bytes, in lower case
    bytes: int | None = None
    content_id: str | None = None  #: the start of the names of its objects in S3
    sha256: str | None = None
    width: int | None = None  #: in pixels, upright
    height: int | None = None
    colours: str | None = None
    profile: str | None = None  #: the name of the embedded colour profile
    orientation: int | None = None  #: as in EXIF
    warnings: tuple[str, ...] = ()  #: those of results with details
    conditional: str | None = None  #: `confirmed`, `ignored`, `no_validators` or `failed`; None if nothing was asked
    validator: str | None = None  #: the header that conditional requests were made with
    renditions: tuple[Rendition, ...] = ()
    cpu_seconds: float | None = None  #: for decoding and encoding
    memory_bytes: int | None = None  #: that the decoding process held at most
    refusal: Refusal | None = None

    @property
    def declared_type(self) -> str | None:
        """The Content-Type of the last response."""
        return self.way[-1].headers.get("Content-Type") if self.way else None


def inspect(source: str) -> Inspection:
    """Inspect a URL or the path of a file. A source that the service would refuse has a `refusal`."""
    is_url = "://" in source
    found = Inspection(_without_secrets(source) if is_url else printable(source))
    stage = FETCH.name
    try:
        download = _download(source, found) if is_url else Download(_read(Path(source)))
        image = download.image or b""
        found.bytes, found.format = len(image), (format_of(image) or "").lower() or None
        settings = get_settings()
        identified = identify(image, max_pixels=settings.max_source_pixels)
        stage = RESIZE.name
        limits = {"max_pixels": settings.max_source_pixels, "max_decoded_pixels": settings.max_decoded_pixels}
        examined = examine(image, settings.recipe, **limits)
        found.content_id = content_id(image, settings.recipe)
        _describe(found, examined, has_wrong_type=is_wrong_type(download.content_type, identified.format))
        if is_url:
            _ask_again(found, source, download.validators)
    except PipelineError as error:
        found.refusal = Refusal(stage, error.code, error.message, _advice(stage, error))
    except (OSError, ValueError) as error:  # a file's; a name may contain a zero byte
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "its name is unusable"
        found.refusal = Refusal("", "unreadable", f"{found.source} cannot be read ({reason}).")
    return found


def _without_secrets(url: str) -> str:
    """Return a URL as output may show it. Queries and passwords may be secrets."""
    scheme, _, rest = url.partition("://")
    return f"{printable(scheme)}://{shown(url)}{'?…' if '?' in rest else ''}" if shown(url) != "the URL" else "the URL"


def _download(url: str, found: Inspection) -> Download:
    def keep(url: str, response: Response) -> None:
        found.way += (_step(url, response),)

    return _downloaded(url, None, keep)


def _downloaded(url: str, validators: Validators | None, on_response: OnResponse) -> Download:
    with download_memory().share() as share:
        return download_if_changed(url, nullcontext, share=share, validators=validators, on_response=on_response)


def _step(url: str, response: Response) -> Step:
    headers = {
        name: shorten(printable(response.headers[name]), MAX_HEADER) for name in HEADERS if name in response.headers
    }
    return Step(_without_secrets(url), response.status_code, headers)


def _read(path: Path) -> bytes:
    """Read a file of at most as many bytes as a download may have."""
    most = get_settings().max_source_bytes
    with path.open("rb") as file:
        data = file.read(most + 1)
    name = printable(path.name)
    if not data:
        raise PermanentError("empty", f"{name} is empty.")
    if len(data) > most:
        raise PermanentError("too_large", f"{name} is larger than {most:,} bytes.")
    return data


def _describe(found: Inspection, examined: Examined, *, has_wrong_type: bool) -> None:
    facts, examination = examined.facts, examined.examination
    found.width, found.height, found.sha256 = facts.width, facts.height, facts.sha256
    found.warnings = tuple(facts.as_result(has_wrong_type=has_wrong_type)["warnings"])
    found.colours, found.profile = examination.colours, examination.profile
    found.orientation = examination.orientation
    found.cpu_seconds, found.memory_bytes = examination.cpu_seconds, examined.peak_memory
    found.renditions = tuple(
        _rendition(each.name, each.width, each.height, examined.renditions[each.name])
        for each in get_settings().recipe.renditions
    )


def _rendition(name: str, width: int, height: int, data: bytes) -> Rendition:
    written = format_of(data) or ""
    quality = ENCODER_SETTINGS.get(written, {}).get("quality")
    return Rendition(name, width, height, written.lower(), quality, data)


def _ask_again(found: Inspection, url: str, validators: Validators | None) -> None:
    """Ask the host whether the source has changed since a moment ago, as re-checks do."""
    if validators is None:
        found.conditional = "no_validators"
        return
    found.validator = "ETag" if validators.etag else "Last-Modified"
    try:
        again = _downloaded(url, validators, lambda *_: None)
    except PipelineError:
        found.conditional = "failed"
    else:
        found.conditional = "confirmed" if again.image is None else "ignored"


def _advice(stage: str, error: PipelineError) -> str:
    delays = get_settings().fetch_retry_delays
    if isinstance(error, RetryableError) and stage == FETCH.name and delays:
        last = format_duration(sum(delays))
        return f"A job would try again {plural(len(delays), 'time')}, the last time after about {last}."
    return "" if is_permanent(stage, error.code) else advice(stage, error.code)
