"""Jobs: the content of messages between stages, and its versioned encoding.

A job is frozen; each stage makes a new one. It contains no image bytes, only the keys under which they wait in staging.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, TypeAdapter, ValidationError

from pipeline.errors import ErrorInfo, PermanentError, PipelineError, Rejected, StagedMissing
from pipeline.images.details.facts import SourceFacts
from pipeline.objective import SLOW_DOWNLOAD, WITHIN, Side
from pipeline.payload import (
    IMAGE_FIELDS,
    MAX_PAYLOAD_BYTES,
    MAX_URL_LENGTH,
    Payload,
    folder_name,
    present_url,
    to_json,
    validated,
)
from pipeline.recipe import Recipe, extension_in
from pipeline.settings import Settings
from pipeline.stages import FETCH, NOTIFY, RESIZE, STAGES, UPLOAD, Lane, Stage

#: Version of the layout of an encoded job. A worker leaves jobs of unknown versions to other workers.
VERSION = 1

#: The deliveries that a message can ask for, by the field that names the receiver.
DELIVERIES = ("redirect_queue", "postback_url")

#: The only delivery of a sweep's job.
DOCUMENT = "document"

#: The last delivery, retried like the others: it deletes the job's bytes in staging.
CLEAN_UP = "clean-up"

#: Public ids of jobs, which appear in logs, headers and keys. The queue layer replaces other ids of messages.
ID = re.compile(r"[A-Za-z0-9-]{1,64}")


#: Counts and sizes in an encoded job. MongoDB and SQS take no larger numbers.
Size = Annotated[int, Field(ge=0, lt=2**53)]


def _object(value: object) -> Payload | None:
    # pydantic must not copy or convert a payload.
    if not isinstance(value, dict | None):
        raise TypeError("a payload must be an object")
    return value


def _one_of(*values: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in values:
            raise ValueError(f"it is not one of {', '.join(values)}")
        return value

    return AfterValidator(check)


def _folder(value: str) -> str:
    if value not in {folder_name(None), folder_name(value)}:
        raise ValueError("it is not a folder")
    return value


def _sources_apart(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    fields = [name for source in sources for name in source.fields]
    if len(set(fields)) < len(fields) or len({source.url for source in sources}) < len(sources):
        raise ValueError("two sources have the same field or URL")
    return sources


def _sizes_of_recipe(source: Source) -> Source:
    if not source.rendered.sizes.keys() <= set(source.content.renditions if source.content else ()):
        raise ValueError("it has renditions that its recipe does not name")
    if source.details and source.details.sizes.keys() != set(source.content.renditions if source.content else ()):
        raise ValueError("its details are not those of its recipe")
    return source


class UnknownVersion(Exception):
    """The layout of an encoded job is unknown to this worker. A newer worker knows it."""


class Unfinished(Exception):
    """A stage could not finish its work.

    Attributes:
        parts: jobs to continue separately. Each has its errors, by the URL of a source or the name of a delivery.
    """

    def __init__(self, *parts: tuple[Job, dict[str, PipelineError]]) -> None:
        super().__init__(*parts)
        self.parts = parts

    def __str__(self) -> str:
        return " ".join(str(error) for _, errors in self.parts for error in errors.values())


@dataclass(frozen=True)
class Content:
    """The content of a source and the recipe for it. Together they determine the keys of its objects."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]  #: from the source bytes and the recipe
    #: of the renditions whose names end in no format, with the dot
    extension: Annotated[str, Field(pattern=r"^\.[a-z]{3,4}$")]
    recipe: Annotated[Recipe, PlainSerializer(Recipe.encode), PlainValidator(Recipe.decode)]

    @property
    def renditions(self) -> list[str]:
        """The names of the renditions."""
        return [rendition.name for rendition in self.recipe.renditions]

    def extension_of(self, rendition: str) -> str:
        """Return the extension of a rendition's key: that of its name, if it has one."""
        return extension_in(rendition) or self.extension


@dataclass(frozen=True)
class Rendered:
    """The renditions of one source in staging: one object with their bytes, one after the other."""

    key: str = ""
    sizes: dict[str, Size] = field(default_factory=dict)  #: bytes of each rendition by name, in stored order
    crc: int | None = None  #: CRC-32 of the object

    @classmethod
    def of(cls, key: str, renditions: Mapping[str, bytes], blob: bytes) -> Rendered:
        """Describe `renditions`, whose joined bytes `blob` are staged under `key`."""
        return cls(key, {name: len(data) for name, data in renditions.items()}, zlib.crc32(blob))

    def split(self, blob: bytes) -> dict[str, bytes]:
        """Return the renditions in `blob` by name.

        Raises:
            StagedMissing: `blob` is not the described object; a worker with other libraries may have overwritten it.
        """
        if zlib.crc32(blob) != self.crc:
            raise StagedMissing(self.key)
        parts, start = {}, 0
        for name, size in self.sizes.items():
            parts[name] = blob[start : start + size]
            start += size
        return parts


@dataclass(frozen=True)
class Validators:
    """The validators of a download. They belong to the URL that answered, which redirects may lead to."""

    url: str
    etag: str = ""
    modified: str = ""  #: Last-Modified, as the host wrote it


@dataclass(frozen=True)
class Known:
    """The content of a source when it was last downloaded."""

    content: Content
    size: Size = 0  #: bytes of the source
    validators: Validators | None = None
    has_wrong_type: bool = False  #: its Content-Type was of another format


@dataclass(frozen=True)
class Details:
    """The facts of a published source in results with details."""

    facts: SourceFacts
    sizes: dict[str, Size]  #: bytes of each rendition by name


@dataclass(frozen=True)
class Source:
    """One source image and its progress."""

    url: Annotated[str, Field(max_length=MAX_URL_LENGTH + 1)]
    #: the `IMAGE_FIELDS` with its URL: both if they are equal
    fields: Annotated[tuple[Annotated[str, _one_of(*IMAGE_FIELDS)], ...], Field(min_length=1)]
    due: Annotated[str, _one_of(*(stage.name for stage in STAGES))] = (
        FETCH.name
    )  #: the next stage; `notify` once it is published or has failed
    original: str = ""  #: staging key of its bytes
    giant: bool = False  #: rendering it takes so much CPU that other images should not wait behind it
    content: Content | None = None
    rendered: Rendered = field(default_factory=Rendered)
    restarted: bool = False  #: it was sent back to fetch because its staged bytes were gone
    former: tuple[str, ...] = ()  #: its staging keys from before that
    error: ErrorInfo | None = None
    given_up: bool = False  #: its error is not permanent: a later job may succeed
    known: Known | None = None  #: for a re-check: the content that the documents have
    size: Size = 0  #: bytes of its download, for jobs of sweeps
    validators: Validators | None = None  #: of its download, for jobs of sweeps
    details: Details | None = None  #: with RESULT_DETAILS, once rendered
    #: With RESULT_DETAILS, and for sweeps: its host sent another Content-Type than that of its bytes.
    has_wrong_type: bool = False

    def fetched(self, key: str, content: Content, *, giant: bool = False) -> Source:
        """Return the source with its bytes staged under `key`."""
        return replace(self, due=RESIZE.name, original=key, content=content, giant=giant)

    def resized(self, rendered: Rendered, details: Details | None = None) -> Source:
        """Return the source with its renditions staged."""
        return replace(self, due=UPLOAD.name, rendered=rendered, details=details)

    def published(self, content: Content, details: Details | None = None) -> Source:
        """Return the source with all its renditions in the bucket."""
        return replace(self, due=NOTIFY.name, content=content, details=details or self.details)

    def failed(self, stage: Stage, error: PipelineError) -> Source:
        """Return the source as failed in `stage`, either permanently or after retries."""
        is_permanent = isinstance(error, PermanentError) and not isinstance(error, StagedMissing)
        return replace(self, due=NOTIFY.name, error=error.info(stage.name), given_up=not is_permanent)

    def back_at_fetch(self) -> Source:
        """Return the source with all progress discarded, except the keys that it may have in staging."""
        return Source(url=self.url, fields=self.fields, restarted=True, former=tuple(self.staged_keys))

    @property
    def known_content(self) -> Content:
        """The content, for stages that need it.

        Raises:
            StagedMissing: the source has not been fetched.
        """
        if self.content is None:
            raise StagedMissing("")
        return self.content

    @property
    def staged_keys(self) -> list[str]:
        """All keys that it may have in staging."""
        return [key for key in (self.original, self.rendered.key, *self.former) if key]


@dataclass(frozen=True)
class Sweep:
    """The documents that a sweep's job belongs to."""

    collection: str  #: their collection
    run: str  #: the run that has claimed them
    cover: str  #: the id of their group in the run's state, which contains their ids and URLs
    #: For a re-check: the content id of the pictures that the documents have, or empty if they differ or are unknown.
    held: str | None = None

    @property
    def is_recheck(self) -> bool:
        """Whether the documents already have pictures of the URL, which are replaced only if its bytes changed."""
        return self.held is not None


@dataclass(frozen=True)
class Job:
    """One accepted input message on its way through the stages."""

    id: Annotated[str, Field(pattern=f"^{ID.pattern}$")]  #: public id of the job: the `webhook-id` of its postback
    folder: Annotated[str, AfterValidator(_folder)]  #: folder of its objects, below the prefix
    sources: Annotated[
        tuple[Annotated[Source, AfterValidator(_sizes_of_recipe)], ...],
        Field(min_length=1, max_length=len(IMAGE_FIELDS)),
        AfterValidator(_sources_apart),
    ]
    #: The unchanged input message; None if it waits in staging.
    payload: Annotated[Payload | None, PlainValidator(_object)] = None
    payload_key: str | None = None  #: staging key of the input message
    lane: Lane = Lane.LIVE
    deliveries: tuple[Annotated[str, _one_of(*DELIVERIES, DOCUMENT, CLEAN_UP)], ...] | None = (
        None  #: the remaining deliveries; None: all that the message asks for
    )
    ticket: str = ""  #: secret part of its staging keys: SQS's id of its first message
    redrives: Size = 0  #: number of the latest redrive, which is part of `report_id`; 0: none
    letters: Size = 0  #: number of its dead letters so far, so that their redrives have different numbers
    sweep: Sweep | None = None  #: set by sweeps only, so that an input message cannot cause writes to MongoDB
    accepted: Annotated[float, Field(ge=0)] = 0.0  #: Unix time of its acceptance; 0: unknown, or it was redriven
    delayed_by: Side | None = None  #: the side that kept it waiting
    is_late: bool = False  #: it was counted as late

    @classmethod
    def accept(cls, payload: object, *, job_id: str, settings: Settings, stage_payload: Callable[[bytes], str]) -> Job:
        """Make a job from an input message.

        Args:
            payload: the decoded message.
            job_id: the public id of the job.
            settings: the destinations that a message may name.
            stage_payload: stages a payload that is too long for a message, and returns its key.

        Raises:
            Rejected: the payload breaks a rule of the contract, section 1.
        """
        payload = validated(payload, settings)
        job = cls(
            id=job_id,
            folder=folder_name(payload.get("bucket_name")),
            sources=_sources({name: url for name in IMAGE_FIELDS if (url := present_url(payload.get(name)))}),
            payload=payload,
        )
        encoded = to_json(payload).encode()
        if len(encoded) > MAX_PAYLOAD_BYTES:
            return replace(job, payload=None, payload_key=stage_payload(encoded))
        return job

    @classmethod
    def of_sweep(cls, sweep: Sweep, *, job_id: str, folder: str, urls: Mapping[str, str]) -> Job:
        """Make a bulk job for image URLs of documents, by field. It has no deliveries: the documents get the result."""
        return cls(id=job_id, folder=folder, sources=_sources(urls), payload={}, lane=Lane.BULK, sweep=sweep)

    @property
    def due(self) -> Stage:
        """The first stage with work left for any source."""
        waiting = {source.due for source in self.sources}
        return next((stage for stage in STAGES if stage.name in waiting), NOTIFY)

    @property
    def postback_url(self) -> str:
        """The URL that is still to get the result; empty if there is none, or if the payload waits in staging."""
        url = (self.payload or {}).get("postback_url") if "postback_url" in (self.deliveries or DELIVERIES) else None
        return url if isinstance(url, str) else ""

    @property
    def has_giant(self) -> bool:
        """Whether a source that waits for resize is a giant."""
        return any(source.giant and source.due == RESIZE.name for source in self.sources)

    @property
    def is_dropped(self) -> bool:
        """Whether an operator dropped all its sources."""
        return all(source.error and source.error["code"] == "dropped" for source in self.sources)

    @property
    def report_id(self) -> str:
        """The id of the result. Each redrive has its own (contract, section 4)."""
        return f"{self.id}.r{self.redrives}" if self.redrives else self.id

    def staged_key(self, stage: Stage, source: Source, content: Content) -> str:
        """Return the staging key for the bytes that `stage` makes of `source`.

        A repeated stage overwrites the same object, so there is only one to delete. A source that restarted has keys of
        its own, which the clean-up of a copy that did not restart leaves alone. Nobody can guess a key without the
        ticket.
        """
        parts = (self.ticket, stage.name, source.url, content.id, *(["restarted"] if source.restarted else []))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def delayed(self, by: Side, until: float) -> Job:
        """Return the job as it waits for an attempt at Unix time `until`. The service never replaces another side."""
        by = self.delayed_by or by if by is Side.SERVICE else by
        return replace(self, delayed_by=by, is_late=self.is_late or until - self.accepted > WITHIN)

    def fetched_in(self, seconds: float) -> Job:
        """Return the job after its downloads; a slow one means that its source did not answer."""
        return replace(self, delayed_by=Side.SOURCE) if seconds > SLOW_DOWNLOAD else self

    def redriven(self, number: int) -> Job:
        """Return the job as its redrive with this number, which no objective covers."""
        return replace(self, redrives=number, letters=0, accepted=0.0, delayed_by=None, is_late=False)

    def with_sources(self, changed: Mapping[str, Source]) -> Job:
        """Return the job with the sources in `changed` replaced, by URL."""
        return replace(self, sources=tuple(changed.get(source.url, source) for source in self.sources))

    def urls_due(self, stage: Stage) -> tuple[str, ...]:
        """Return the URLs of the sources that are due in `stage`; none in `notify`, which works on whole jobs."""
        return tuple(source.url for source in self.sources if source.due == stage.name and stage is not NOTIFY)

    def with_errors(self, stage: Stage, errors: Mapping[str, PipelineError]) -> Job:
        """Return the job with the sources that have `errors`, by URL, as failed in `stage`."""
        due = self.urls_due(stage)
        failed = {s.url: s.failed(stage, errors[s.url]) for s in self.sources if s.url in due and s.url in errors}
        return self.with_sources(failed)

    def result(self, payload: Payload, info: Callable[[Content], dict[str, Any]]) -> Payload:
        """Return the result of the job (contract, section 4).

        Args:
            payload: the input message. Its fields with names of the result are replaced.
            info: returns the information on a published image.

        Returns:
            The payload with `<field>_info`, and `<field>_error` for a failed image, for each image field.
        """
        ours = {f"{name}_{kind}" for name in IMAGE_FIELDS for kind in ("info", "error")} | {"postback_secret_key"}
        result = {key: value for key, value in payload.items() if key not in ours}
        for source in self.sources:
            for name in source.fields:
                result[f"{name}_info"] = None if source.error else info(source.known_content)
                if source.error:
                    result[f"{name}_error"] = source.error
        return result

    def encode(self) -> dict[str, Any]:
        """Return the job as JSON types, without fields that have their default."""
        encoded: dict[str, Any] = {"v": VERSION}
        encoded.update(_JOB.dump_python(self, mode="json", exclude_defaults=True, exclude={"payload"}))
        if self.payload is not None:
            encoded["payload"] = self.payload
        return encoded

    @classmethod
    def decode(cls, encoded: object) -> Job:
        """Return the job that `encode` returned `encoded` for.

        Raises:
            UnknownVersion: another version of this program encoded it.
            Rejected: it is not an encoded job.
        """
        version = encoded.get("v") if isinstance(encoded, dict) else None
        if not isinstance(version, int):
            raise Rejected("bad_job", "The message does not contain a job.")
        if version != VERSION:
            raise UnknownVersion(f"the job has version {version}; this worker knows {VERSION}")
        try:
            return _JOB.validate_python(encoded)
        except (ValidationError, KeyError, TypeError):  # their text contains values
            raise Rejected("bad_job", "The message contains a job that cannot be read.") from None


_JOB = TypeAdapter(Job)


def _sources(urls: Mapping[str, str]) -> tuple[Source, ...]:
    """Return a source for each distinct URL in `urls`, which are by field. Two that are too long may become one."""
    fields: dict[str, list[str]] = {}
    for name, url in urls.items():
        fields.setdefault(url[: MAX_URL_LENGTH + 1], []).append(name)
    return tuple(Source(url, tuple(names)) for url, names in fields.items())
