"""One dead letter: what it says of itself, and whether it can be sent through again.

What is shown of it names a URL by host and path. Only `shown_payload` shows what a producer sent, without what looks
like a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dramatiq

from pipeline.errors import PipelineError, Rejected
from pipeline.job import Job, UnknownVersion
from pipeline.net.http_errors import shown
from pipeline.payload import parse_json
from pipeline.settings import get_settings
from pipeline.sqs.queues import MAX_RECEIVES, RETENTION
from pipeline.sqs.wire import ATTEMPTS, decode
from pipeline.stages import DEAD_LETTER_QUEUES, INGEST_DEAD_LETTER_QUEUE, NOTIFY, SWEEP_QUEUES, stage_of_queue
from pipeline.text import printable
from pipeline.worker.messages import job_of

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

#: The code of a letter that holds none: SQS moved the message itself.
NO_REASON = "no_reason"

#: The beginning of an id names it, if it is at least so long.
SHORTEST_ID = 4

#: What is not shown of a payload: the values under such names, and of a URL all but host and path.
_SECRET = re.compile(r"secret|passw|token|credential|authori[sz]ation|signature|api_?key|private", re.IGNORECASE)
#: Names and schemes have a longest length, so that no text takes more than linear time.
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,20}://[^\s\"'<>\\]+", re.IGNORECASE)
_NAME = rf'"[^"]{{0,60}}?(?:{_SECRET.pattern})[^"]{{0,60}}"'
_SECRET_PAIR = re.compile(rf'({_NAME}\s{{0,20}}:\s{{0,20}})("(?:[^"\\]|\\.)*"?|[^\s,}}\]]+)', re.IGNORECASE)
HIDDEN = "…"


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter, as it was read. Times are in UTC."""

    id: str  #: SQS's MessageId
    queue: str  #: where it lies, without the namespace: `upload_dlq`
    stage: str  #: that gave it up: `upload`; also `ingest`, `sweep_channels`, `sweep_episodes`
    code: str
    message: str  #: one sentence for people
    attempts: int  #: that were made; 0 where nobody counted
    first_at: datetime  #: when it was first sent
    last_at: datetime  #: when it was given up
    sent_at: float  #: when it came here, by SQS's clock, in Unix seconds
    target: str = (
        ""  #: the queue that a redrive sends it to, without the namespace; of `ingest`, the input queue's name
    )
    obstacle: str = ""  #: why a redrive leaves it; a sentence, empty where it does not
    job_id: str = ""  #: empty where it holds no job
    report_id: str = ""  #: what its result is reported under when it is sent again
    folder: str = ""
    lane: str = ""
    urls: tuple[str, ...] = ()  #: of its images, as host and path
    hosts: tuple[str, ...] = ()  #: of its images, and of the postback's receiver where `notify` gave it up
    job: Job | None = field(default=None, repr=False)
    body: str = field(default="", repr=False)  #: what is sent again; the whole of it, wherever it waited

    @property
    def kept_until(self) -> datetime:
        """When SQS deletes it."""
        return datetime.fromtimestamp(self.sent_at + RETENTION, UTC)

    def as_dict(self) -> dict[str, Any]:
        """Its JSON form: no payload, no query of a URL."""
        times = {name: getattr(self, name).isoformat(timespec="seconds") for name in ("first_at", "last_at")}
        names = ("id", "queue", "stage", "code", "message", "attempts")
        more = ("target", "obstacle", "job_id", "report_id", "folder", "lane", "urls", "hosts")
        kept = {"kept_until": self.kept_until.isoformat(timespec="seconds")}
        first, last = ({name: getattr(self, name) for name in group} for group in (names, more))
        return first | times | kept | last


@dataclass(frozen=True)
class Filter:
    """Which letters are meant: those that fit everything that is given.

    Raises:
        ValueError: `stage` is none, or an id is too short to mean a letter.
    """

    stage: str | None = None  #: a key of `DEAD_LETTER_QUEUES`
    code: str | None = None
    host: str | None = None  #: or a subdomain of it
    older_than: timedelta | None = None  #: given up longer ago than that
    ids: tuple[str, ...] = ()  #: any of these letters or jobs, by the beginnings of their ids

    def __post_init__(self) -> None:
        if self.stage is not None and self.stage not in DEAD_LETTER_QUEUES:
            raise ValueError(f"{self.stage!r} is no stage: write one of {', '.join(DEAD_LETTER_QUEUES)}")
        if short := [id_ for id_ in self.ids if len(id_) < SHORTEST_ID]:
            raise ValueError(f"{short[0]!r} is no id: write at least {SHORTEST_ID} characters of a letter's or a job's")

    @property
    def queues(self) -> list[str]:
        """The dead-letter queues to look in, without the namespace."""
        return [DEAD_LETTER_QUEUES[self.stage]] if self.stage else list(DEAD_LETTER_QUEUES.values())

    def matches(self, letter: DeadLetter, now: datetime) -> bool:
        """Whether a letter matches at the time `now`."""
        return (
            self.stage in {None, letter.stage}
            and self.code in {None, letter.code}
            and (self.host is None or any(_is_at(host, self.host) for host in letter.hosts))
            and (self.older_than is None or now - letter.last_at > self.older_than)
            and (not self.ids or any(each.startswith(self.ids) for each in (letter.id, letter.job_id)))
        )


@dataclass(frozen=True)
class _Content:
    """What was found in a letter's body."""

    target: str = ""
    obstacle: str = ""
    job: Job | None = None


def read_letter(received: MessageTypeDef, queue: str, body_of: Callable[[str], str]) -> DeadLetter:
    """The letter in a message that was received from `queue`, a dead-letter queue's name without the namespace.

    `body_of` returns the body that waits in staging under a key; it raises a PipelineError where it cannot.
    """
    said = {name: value.get("StringValue", "") for name, value in received.get("MessageAttributes", {}).items()}
    stage = next(stage for stage, name in DEAD_LETTER_QUEUES.items() if name == queue)
    sent = int(received["Attributes"]["SentTimestamp"]) / 1000
    body = received["Body"]
    try:
        body = body_of(said["staging_key"]) if said.get("staging_key") else body
        content = _content(body, queue)
    except PipelineError as error:
        content = _Content(obstacle=f"Its body, which was too large for a letter, cannot be read: {error.message}")
    code, job = said.get("error_code") or NO_REASON, content.job
    urls = _urls_of(job, stage) if job else []
    return DeadLetter(
        id=received["MessageId"],
        queue=queue,
        stage=stage,
        code=code,
        message=said.get("error_message")
        or f"SQS moved it here itself, after {MAX_RECEIVES} receives: no worker that had it lived to settle it.",
        attempts=int(said["attempts"]) if said.get("attempts", "").isdecimal() else 0,
        first_at=_time(said.get("first_at"), sent),
        last_at=_time(said.get("last_at"), sent),
        sent_at=sent,
        target=content.target,
        obstacle=content.obstacle or _needless(job, stage, code),
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
    """What `ingest` refused: it can be sent again if it would not be refused today."""
    url = get_settings().queue_url
    target = url.rsplit("/", 1)[-1] if url else ""
    try:
        job = Job.accept(parse_json(body), job_id="", own_queues=get_settings().own_queues, stage_payload=lambda _: "")
    except (ValueError, RecursionError):
        return _Content(target, _refused("It is not valid JSON."))
    except Rejected as error:
        return _Content(target, _refused(error.message))
    return _Content(target, "" if url else "QUEUE_URL is not set, and it came from there.", job)


def _message(body: str, queue: str) -> _Content:
    """What lay on a queue of the service's own: it can be sent again if a worker of today would take it."""
    try:
        message = decode(body)
    except ValueError as error:
        return _Content(obstacle=f"No worker would take it: {error}.")
    target, stage = message.queue_name, stage_of_queue(message.queue_name)
    actor, dead = (stage.actor, stage.dead_letter_queue) if stage else (target, f"{target}_dlq")
    if (stage is None and target not in SWEEP_QUEUES) or dead != queue or message.actor_name != actor:
        return _Content(obstacle="No worker would take it: it names another queue or actor.")
    if stage is None:  # the page of a sweep
        return _Content(target)
    try:
        return _Content(target, job=job_of(message, stage_payload=lambda _: ""))
    except UnknownVersion as error:
        return _Content(target, f"This release cannot read it: {error}. A newer one can.")
    except Rejected as error:
        return _Content(target, _refused(error.message))


def _refused(why: str) -> str:
    return f"It would be refused again: {why}"


def _needless(job: Job | None, stage: str, code: str) -> str:
    """Why there would be no sense in sending a job through that could be."""
    if job and job.sweep and stage != NOTIFY.name and code != NO_REASON:
        again = f"`image-pipeline sweep retry {job.sweep.collection}`"
        return f"It is a sweep's job, whose documents were told of the error and wait for {again}."
    return ""


def to_send(letter: DeadLetter) -> dramatiq.Message[Any]:
    """The message that a letter of a stage or a sweep is sent again as, its attempts counted anew."""
    return decode(letter.body).copy(options={ATTEMPTS: {}})


def _urls_of(job: Job, stage: str) -> list[str]:
    """The URLs by whose hosts a letter is found. A payload that waits in staging is not looked into."""
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
    """What the producer sent, as text without what looks like a secret: indented JSON, or as it is if it is none.

    Raises:
        PipelineError: it waits in staging, and `body_of`, as in `read_letter`, cannot read it.
    """
    if letter.job and letter.job.payload_key:
        return shown_payload(body_of(letter.job.payload_key))
    if letter.job and letter.job.payload is not None:
        return shown_payload(json.dumps(letter.job.payload))
    return shown_payload(letter.body)


def shown_payload(text: str) -> str:
    """`text` without what looks like a secret: values under such names, and of a URL all but host and path.

    >>> shown_payload('{"image_url": "https://u:p@example.org/a.jpg?t=1", "token": "x"}')
    '{\\n  "image_url": "https://example.org/a.jpg?…",\\n  "token": "…"\\n}'
    """
    try:
        clean = json.dumps(_without_secrets(parse_json(text)), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        clean = _URL.sub(lambda match: _bare(match[0]), _SECRET_PAIR.sub(rf'\1"{HIDDEN}"', text))
    return printable(clean, but="\n")


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if _SECRET.search(name) and inner else _without_secrets(inner) for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return _URL.sub(lambda match: _bare(match[0]), value) if isinstance(value, str) else value


def _bare(url: str) -> str:
    """A URL without credentials, query and fragment."""
    scheme, _, rest = url.partition("://")
    more = f"?{HIDDEN}" if re.search("[?#]", rest) else ""
    return f"{scheme}://{shown(url)}{more}"
