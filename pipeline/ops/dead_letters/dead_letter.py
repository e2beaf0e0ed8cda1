"""Parses one dead letter, and decides whether it can be redriven.

Its fields contain URLs only as host and path. Only `shown_payload` shows a producer's payload, without probable
secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dramatiq

from pipeline.errors import PipelineError, Rejected
from pipeline.job import Job, UnknownVersion
from pipeline.job_ids import possible_ids
from pipeline.net.http_errors import shown
from pipeline.payload import MAX_URL_LENGTH, parse_json
from pipeline.settings import get_settings
from pipeline.sqs.queues import MAX_RECEIVES, RETENTION
from pipeline.sqs.wire import ATTEMPTS, decode
from pipeline.stages import (
    DEAD_LETTER_QUEUES,
    INGEST_DEAD_LETTER_QUEUE,
    NOTIFY,
    SWEEP_ACTORS,
    dead_letter_queue_of,
    stage_of_queue,
)
from pipeline.text import printable
from pipeline.worker.messages import Encoder, job_of

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

#: The code of a dead letter without one, which SQS moved itself.
NO_REASON = "no_reason"

#: Minimum length of the beginning of an id.
MIN_ID = 4

#: Names whose values are hidden in a shown payload.
_SECRET = re.compile(r"secret|passw|token|credential|authori[sz]ation|signature|api_?key|private", re.IGNORECASE)
#: Names and schemes have a maximum length, so that matching takes linear time.
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,20}://[^\s\"'<>\\]+", re.IGNORECASE)
_NAME = rf'"[^"]{{0,60}}?(?:{_SECRET.pattern})[^"]{{0,60}}"'
_SECRET_PAIR = re.compile(rf'({_NAME}\s{{0,20}}:\s{{0,20}})("(?:[^"\\]|\\.)*"?|[^\s,}}\]]+)', re.IGNORECASE)
HIDDEN = "…"

#: The fields of a dead letter in JSON, in their order.
_SHOWN = (
    *("id", "queue", "stage", "code", "message", "attempts", "first_at", "last_at", "kept_until"),
    *("target", "obstacle", "job_id", "report_id", "folder", "lane", "urls", "hosts"),
)


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter. Times are in UTC."""

    id: str  #: SQS's MessageId
    queue: str  #: its dead-letter queue, without the namespace: `upload_dlq`
    stage: str  #: the stage that failed: `upload`; also `ingest`, `sweep_channels`, `sweep_episodes`
    code: str
    message: str  #: one sentence for people
    attempts: int  #: 0 if unknown
    first_at: datetime  #: when it was first sent
    last_at: datetime  #: when it failed for good
    sent_at: float  #: when it arrived in the dead-letter queue, in Unix seconds by SQS's clock
    #: The queue that a redrive sends it to, without the namespace; for `ingest`, the name of the input queue.
    target: str = ""
    obstacle: str = ""  #: a sentence why a redrive leaves it; empty if it sends it
    job_id: str = ""  #: empty if it contains no job
    report_id: str = ""  #: the id of its result after a redrive
    folder: str = ""
    lane: str = ""
    urls: tuple[str, ...] = ()  #: the URLs of its images, as host and path
    hosts: tuple[str, ...] = ()  #: of its images; in `notify` also of its postback URL
    job: Job | None = field(default=None, repr=False)
    body: str = field(default="", repr=False)  #: the complete body, read from staging if it waited there

    def is_meant_by(self, given: str) -> bool:
        """Return whether `given` is the beginning of its id or its job's id, or the MessageId of the job's input."""
        return any(each.startswith(given) for each in (self.id, self.job_id)) or self.job_id in possible_ids(given)

    def summary(self) -> DeadLetter:
        """Return the dead letter without its content, which may have a megabyte."""
        return replace(self, job=None, body="")

    @property
    def kept_until(self) -> datetime:
        """When SQS will delete it."""
        return datetime.fromtimestamp(self.sent_at + RETENTION, UTC)

    def as_dict(self) -> dict[str, Any]:
        """Return the dead letter as the commands print it in JSON, without payload and URL queries."""
        fields = {name: getattr(self, name) for name in _SHOWN}
        times = {name: fields[name].isoformat(timespec="seconds") for name in ("first_at", "last_at", "kept_until")}
        return fields | times


@dataclass(frozen=True)
class Filter:
    """A filter for dead letters; a dead letter matches if it fits every field that is set.

    Raises:
        ValueError: The stage does not exist, or an id is too short.
    """

    stage: str | None = None  #: a key of `DEAD_LETTER_QUEUES`
    code: str | None = None
    host: str | None = None  #: also matches its subdomains
    failed_before: datetime | None = None
    job: str | None = None  #: the whole id of a job
    ids: tuple[str, ...] = ()  #: beginnings of ids of dead letters or jobs; one must match

    def __post_init__(self) -> None:
        if self.stage is not None and self.stage not in DEAD_LETTER_QUEUES:
            raise ValueError(f"{self.stage!r} is not a stage: write one of {', '.join(DEAD_LETTER_QUEUES)}")
        if short := [id_ for id_ in self.ids if len(id_) < MIN_ID]:
            raise ValueError(
                f"{short[0]!r} is too short: write at least {MIN_ID} characters of a dead letter's or a job's id"
            )

    @property
    def queues(self) -> list[str]:
        """The dead-letter queues to read, without the namespace."""
        return [DEAD_LETTER_QUEUES[self.stage]] if self.stage else list(DEAD_LETTER_QUEUES.values())

    def matches(self, letter: DeadLetter) -> bool:
        """Return whether a dead letter matches."""
        return (
            self.stage in {None, letter.stage}
            and self.code in {None, letter.code}
            and (self.host is None or any(_is_at(host, self.host) for host in letter.hosts))
            and (self.failed_before is None or letter.last_at < self.failed_before)
            and self.job in {None, letter.job_id}
            and (not self.ids or any(map(letter.is_meant_by, self.ids)))
        )


@dataclass(frozen=True)
class _Content:
    """The parsed body of a dead letter."""

    target: str = ""
    obstacle: str = ""
    job: Job | None = None


def read_letter(received: MessageTypeDef, queue: str, body_of: Callable[[str], str]) -> DeadLetter:
    """Parse the dead letter in a received message.

    Args:
        received: The message.
        queue: The name of its dead-letter queue, without the namespace.
        body_of: Returns the body stored in staging under a key, or raises a PipelineError.
    """
    attributes = {name: value.get("StringValue", "") for name, value in received.get("MessageAttributes", {}).items()}
    stage = next(stage for stage, name in DEAD_LETTER_QUEUES.items() if name == queue)
    sent = int(received["Attributes"]["SentTimestamp"]) / 1000
    body = received["Body"]
    try:
        body = body_of(attributes["staging_key"]) if attributes.get("staging_key") else body
        content = _content(body, queue)
    except PipelineError as error:
        content = _Content(obstacle=f"Its body, which was too large for SQS, cannot be read: {error.message}")
    code, job = attributes.get("error_code") or NO_REASON, content.job
    urls = _urls_of(job, stage) if job else []
    return DeadLetter(
        id=received["MessageId"],
        queue=queue,
        stage=stage,
        code=code,
        message=attributes.get("error_message")
        or f"SQS moved it here after {MAX_RECEIVES} receives: every worker that received it died before settling it.",
        attempts=int(attributes["attempts"]) if attributes.get("attempts", "").isdecimal() else 0,
        first_at=_time(attributes.get("first_at"), sent),
        last_at=_time(attributes.get("last_at"), sent),
        sent_at=sent,
        target=content.target,
        obstacle=content.obstacle or _unneeded(job, stage, code),
        job_id=job.id if job else "",
        report_id=job.report_id if job else "",
        folder=job.folder if job else "",
        lane=job.lane.value if job else "",
        urls=tuple(shown(source.url) for source in job.sources) if job else (),
        hosts=tuple(dict.fromkeys(filter(None, map(_host, urls)))),
        job=job,
        body=body,
    )


def _content(body: str, queue: str) -> _Content:
    return _input(body) if queue == INGEST_DEAD_LETTER_QUEUE else _message(body, queue)


def _input(body: str) -> _Content:
    """Parse a message that `ingest` rejected; it can be sent again if it is acceptable now."""
    target = get_settings().input_queue_name or ""
    try:
        job = Job.accept(parse_json(body), job_id="", settings=get_settings(), stage_payload=lambda _: "")
    except (ValueError, RecursionError):
        return _Content(target, _rejected("It is not valid JSON."))
    except Rejected as error:
        return _Content(target, _rejected(error.message))
    return _Content(target, "" if target else "QUEUE_URL, which it came from, is not set.", job)


def _message(body: str, queue: str) -> _Content:
    """Parse a message of the service's own queues; it can be sent again if this release accepts it."""
    try:
        message = decode(body, Encoder())
    except ValueError as error:
        return _Content(obstacle=f"No worker would accept it: {error}.")
    target, stage = message.queue_name, stage_of_queue(message.queue_name)
    dead = stage.dead_letter_queue if stage else dead_letter_queue_of(target)
    is_ours = message.actor_name == stage.actor if stage else SWEEP_ACTORS.get(message.actor_name) == target
    if not is_ours or dead != queue:
        return _Content(obstacle="No worker would accept it: it names another queue or actor.")
    if stage is None:  # the page of a sweep
        return _Content(target)
    try:
        return _Content(target, job=job_of(message, stage_payload=lambda _: ""))
    except UnknownVersion as error:
        return _Content(target, f"This release cannot read it: {error}. A newer release can.")
    except Rejected as error:
        return _Content(target, _rejected(error.message))


def _rejected(why: str) -> str:
    return f"It would be rejected again: {why}"


def _unneeded(job: Job | None, stage: str, code: str) -> str:
    """Return why a job should not be redriven although it could be; empty if it should."""
    if job and job.sweep and stage != NOTIFY.name and code != NO_REASON:
        again = f"`image-pipeline sweep retry {job.sweep.collection}`"
        return f"It is a job of a sweep. Its documents record the error and wait for {again}."
    return ""


def to_send(letter: DeadLetter) -> dramatiq.Message[Any]:
    """Return the message that redrives a dead letter of a stage or a sweep, with its attempts reset."""
    return decode(letter.body, Encoder()).copy(options={ATTEMPTS: {}})


def _urls_of(job: Job, stage: str) -> list[str]:
    """Return the URLs whose hosts the filter matches. A payload in staging is not read."""
    postback = (job.payload or {}).get("postback_url") if stage == NOTIFY.name else None
    return [source.url for source in job.sources] + ([postback] if isinstance(postback, str) else [])


def _host(url: str) -> str:
    try:
        return printable(urlsplit(url).hostname or "")
    except ValueError:
        return ""


def _is_at(host: str, wanted: str) -> bool:
    wanted = wanted.lower().strip(".")
    return host == wanted or host.endswith(f".{wanted}")


def _time(text: str | None, otherwise: float) -> datetime:
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return datetime.fromtimestamp(otherwise, UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def payload_of(letter: DeadLetter, body_of: Callable[[str], str]) -> str:
    """Return the producer's payload without probable secrets: as indented JSON, or unchanged if it is not JSON.

    Args:
        letter: The dead letter.
        body_of: As in `read_letter`.

    Raises:
        PipelineError: The payload waits in staging, and `body_of` cannot read it.
    """
    if letter.job and letter.job.payload_key:
        return shown_payload(body_of(letter.job.payload_key))
    if letter.job and letter.job.payload is not None:
        return shown_payload(json.dumps(letter.job.payload))
    return shown_payload(letter.body)


def shown_payload(text: str) -> str:
    r"""Remove probable secrets: values with such names, and from URLs everything but host and path.

    >>> shown_payload('{"image_url": "https://u:p@example.org/a.jpg?t=1", "token": "x"}')
    '{\n  "image_url": "https://example.org/a.jpg?…",\n  "token": "…"\n}'
    """
    try:
        clean = json.dumps(_without_secrets(parse_json(text)), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        clean = _URL.sub(lambda match: _bare(match[0]), _SECRET_PAIR.sub(rf'\1"{HIDDEN}"', text))
    return printable(clean, keep="\n")


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if _SECRET.search(name) and inner else _without_secrets(inner) for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return _URL.sub(lambda match: _bare(match[0]), value) if isinstance(value, str) else value


def _bare(url: str) -> str:
    """Remove credentials, query and fragment from a URL."""
    scheme, _, rest = url.partition("://")
    more = f"?{HIDDEN}" if re.search("[?#]", rest) else ""
    return f"{scheme}://{shown(url, MAX_URL_LENGTH)}{more}"
