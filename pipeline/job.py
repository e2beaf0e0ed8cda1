"""The job: what a message between stages carries, and its versioned encoding.

A job is frozen; a stage makes a new one. Bytes never ride in it: they wait in staging under the keys it names.
"""

from __future__ import annotations

import hashlib
import json
import uuid
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, TypeAdapter, ValidationError

from pipeline.errors import ErrorInfo, PermanentError, PipelineError, Rejected, StagedMissing
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
from pipeline.recipe import Recipe
from pipeline.stages import FETCH, NOTIFY, RESIZE, STAGES, UPLOAD, Lane, Stage

#: The layout of an encoded job. A worker leaves versions that it does not know to one that does.
VERSION = 1

#: The namespaces of ids made from the MessageIds of the input queue, and from what a sweep found.
_INPUT_IDS = uuid.uuid5(uuid.NAMESPACE_DNS, "input.image-pipeline")
_SWEEP_IDS = uuid.uuid5(uuid.NAMESPACE_DNS, "sweep.image-pipeline")

#: What comes after the deliveries, and is tried again as they are: the job's bytes in staging are deleted.
CLEAN_UP = "clean-up"


def _object(value: object) -> Payload | None:
    """Only json ever touches a payload: what is in it comes back as it was."""
    if not isinstance(value, dict | None):
        raise TypeError("a payload is an object")
    return value


class UnknownVersion(Exception):
    """An encoded job has a layout that this worker does not know; a newer worker will."""


class Unfinished(Exception):
    """A stage could not do all of its work.

    Each of `parts` is a job to go on with by itself, and the errors that keep it from going on: by the URL of a
    source, or by the name of a delivery.
    """

    def __init__(self, *parts: tuple[Job, dict[str, PipelineError]]) -> None:
        super().__init__(*parts)
        self.parts = parts

    def __str__(self) -> str:
        return " ".join(str(error) for _, errors in self.parts for error in errors.values())


@dataclass(frozen=True)
class Content:
    """What a source turned out to be, and what is to be made of it: together they name its objects."""

    id: str  #: 32 hex digits for source bytes and recipe
    extension: str  #: of the renditions, with its dot
    recipe: Annotated[Recipe, PlainSerializer(Recipe.encode), PlainValidator(Recipe.decode)]

    @property
    def renditions(self) -> list[str]:
        """The names of its renditions."""
        return [rendition.name for rendition in self.recipe.renditions]


@dataclass(frozen=True)
class Rendered:
    """The renditions of one source, waiting in staging as one object: their bytes, one after the other."""

    key: str = ""
    sizes: dict[str, int] = field(default_factory=dict)  #: bytes of each, by its name, in the order they are stored
    crc: int | None = None  #: CRC-32 of the object

    @classmethod
    def of(cls, key: str, renditions: Mapping[str, bytes], blob: bytes) -> Rendered:
        """Of `renditions`, which together are `blob`, staged under `key`."""
        return cls(key, {name: len(data) for name, data in renditions.items()}, zlib.crc32(blob))

    def split(self, blob: bytes) -> dict[str, bytes]:
        """The renditions in `blob`, by name.

        Raises:
            StagedMissing: `blob` is another, as a worker with other libraries may have put in its place.
        """
        if zlib.crc32(blob) != self.crc:
            raise StagedMissing(self.key)
        parts, start = {}, 0
        for name, size in self.sizes.items():
            parts[name] = blob[start : start + size]
            start += size
        return parts


@dataclass(frozen=True)
class Source:
    """One source image, and what is known of it so far."""

    url: str
    fields: tuple[str, ...]  #: which of `IMAGE_FIELDS` name it: both, where they hold the same URL
    due: str = FETCH.name  #: the stage that has to work on it next; `notify` once it is published or has failed
    original: str = ""  #: staging key of its bytes
    content: Content | None = None
    rendered: Rendered = field(default_factory=Rendered)
    restarted: bool = False  #: it was sent back to fetch once, because its bytes had gone from staging
    former: tuple[str, ...] = ()  #: staging keys from before that
    error: ErrorInfo | None = None
    given_up: bool = False  #: its error was not for good: another day may do better

    def fetched(self, key: str, content: Content) -> Source:
        """Its bytes wait in staging under `key`."""
        return replace(self, due=RESIZE.name, original=key, content=content)

    def resized(self, rendered: Rendered) -> Source:
        """Its renditions wait in staging."""
        return replace(self, due=UPLOAD.name, rendered=rendered)

    def published(self, content: Content) -> Source:
        """All its renditions are in the bucket."""
        return replace(self, due=NOTIFY.name, content=content)

    def failed(self, stage: Stage, error: PipelineError) -> Source:
        """It ended in `stage`: for good, or given up after retries."""
        for_good = isinstance(error, PermanentError) and not isinstance(error, StagedMissing)
        return replace(self, due=NOTIFY.name, error=error.info(stage.name), given_up=not for_good)

    def back_at_fetch(self) -> Source:
        """Back at fetch, as if nothing were known of it but what it may have left in staging."""
        return Source(url=self.url, fields=self.fields, restarted=True, former=tuple(self.staged_keys))

    @property
    def known_content(self) -> Content:
        """Its content, for stages that cannot do without."""
        if self.content is None:
            raise StagedMissing("")
        return self.content

    @property
    def staged_keys(self) -> list[str]:
        """What it has in staging, and may have there."""
        return [key for key in (self.original, self.rendered.key, *self.former) if key]


@dataclass(frozen=True)
class Sweep:
    """Which documents a job of a sweep is for."""

    collection: str  #: where they are
    run: str  #: the run whose claim they carry
    cover: str  #: names them, and the URLs they had, in the run's state


@dataclass(frozen=True)
class Job:
    """One accepted input message on its way through the stages."""

    id: str  #: what the outside world knows the job by: the `webhook-id` of its postback
    folder: str  #: where its objects go, under the prefix
    sources: tuple[Source, ...]
    #: The input, untouched; None where it waits in staging.
    payload: Annotated[Payload | None, PlainValidator(_object)] = None
    payload_key: str | None = None  #: where it waits
    lane: Lane = Lane.LIVE
    deliveries: tuple[str, ...] | None = None  #: the deliveries still to make; None: all that were asked for
    ticket: str = ""  #: what its keys in staging are made of, known to nobody else: SQS's id of its first message
    redrives: int = 0  #: what its result is numbered with since an operator sent it through again; 0: nobody did
    letters: int = 0  #: dead letters it has left on its way: a redrive of each is numbered apart
    sweep: Sweep | None = None  #: set by a sweep alone: nothing in an input message can make a job write to MongoDB

    @classmethod
    def accept(
        cls, payload: object, *, job_id: str, own_queues: Collection[str], stage_payload: Callable[[bytes], str]
    ) -> Job:
        """Make a job of an input message.

        Args:
            payload: the decoded message.
            job_id: the id that the outside world will know the job by.
            own_queues: as in `validated`.
            stage_payload: puts a payload that is too long for a message into staging, and returns its key.

        Raises:
            Rejected: the payload breaks a rule of the contract's section 1; its sentence names the rule.
        """
        payload = validated(payload, own_queues)
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
        """A job in the bulk lane for the images that documents name, by their fields. Nobody but they hears of it."""
        return cls(id=job_id, folder=folder, sources=_sources(urls), payload={}, lane=Lane.BULK, sweep=sweep)

    @property
    def due(self) -> Stage:
        """The first stage that some source has still to pass."""
        waiting = {source.due for source in self.sources}
        return next((stage for stage in STAGES if stage.name in waiting), NOTIFY)

    @property
    def report_id(self) -> str:
        """The id the result is reported under: a redriven job has one of its own (contract, section 4)."""
        return f"{self.id}.r{self.redrives}" if self.redrives else self.id

    def staged_key(self, stage: Stage, source: Source, content: Content) -> str:
        """The key in staging of what `stage` makes of `source`: the same however often it does so.

        So a stage that runs again puts the same bytes in the same place, and there is one to delete. Nobody can guess
        the key who does not know the ticket.
        """
        parts = (self.ticket, stage.name, source.url, content.id)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def with_sources(self, further: Mapping[str, Source]) -> Job:
        """The job with those sources replaced that `further` has, by their URLs."""
        return replace(self, sources=tuple(further.get(source.url, source) for source in self.sources))

    def urls_due(self, stage: Stage) -> tuple[str, ...]:
        """The sources that `stage` has to work on; none in `notify`, which works on the job as a whole."""
        return tuple(source.url for source in self.sources if source.due == stage.name and stage is not NOTIFY)

    def with_errors(self, stage: Stage, errors: Mapping[str, PipelineError]) -> Job:
        """The job with the sources that `errors` names by URL failed in `stage`."""
        due = self.urls_due(stage)
        failed = {s.url: s.failed(stage, errors[s.url]) for s in self.sources if s.url in due and s.url in errors}
        return self.with_sources(failed)

    def result(self, payload: Payload, info: Callable[[Content], dict[str, Any]]) -> Payload:
        """What is reported of the job: `payload` and, for each image field, what `info` says or the error.

        Contract, section 4. What the producer sent under the names that are ours is replaced.
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
        """The job as JSON types, what is at its default left out."""
        encoded: dict[str, Any] = {"v": VERSION}
        encoded.update(_JOB.dump_python(self, mode="json", exclude_defaults=True, exclude={"payload"}))
        if self.payload is not None:
            encoded["payload"] = self.payload
        return encoded

    @classmethod
    def decode(cls, encoded: object) -> Job:
        """The job that `encode` made `encoded` from.

        Raises:
            UnknownVersion: another version of this program made it.
            Rejected: nothing of ours made it.
        """
        version = encoded.get("v") if isinstance(encoded, dict) else None
        if not isinstance(version, int):
            raise Rejected("bad_job", "The message holds no job.")
        if version != VERSION:
            raise UnknownVersion(f"a job of version {version}; only {VERSION} is known here")
        try:
            return _JOB.validate_python(encoded)
        except (ValidationError, KeyError, TypeError):  # their text holds the values
            raise Rejected("bad_job", "The message holds a job that cannot be read.") from None


_JOB = TypeAdapter(Job)


def _sources(urls: Mapping[str, str]) -> tuple[Source, ...]:
    """A source for each distinct URL of `urls`, which are by field."""
    fields: dict[str, list[str]] = {}
    for name, url in urls.items():
        fields.setdefault(url, []).append(name)
    return tuple(Source(url[: MAX_URL_LENGTH + 1], tuple(names)) for url, names in fields.items())


def input_job_id(message_id: str) -> str:
    """The id of the job of an input message: the same each time SQS delivers it (contract, section 1)."""
    return str(uuid.uuid5(_INPUT_IDS, message_id))


def sweep_job_id(collection: str, document: object, urls: Mapping[str, str], run: str) -> str:
    """The id of a sweep's job: the same each time the same run meets the document (contract, section 1)."""
    return str(uuid.uuid5(_SWEEP_IDS, json.dumps([collection, str(document), sorted(urls.items()), run])))
