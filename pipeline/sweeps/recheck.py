"""Re-checks: ask the hosts of covers that documents already have whether the bytes behind the URL have changed.

A run reads all documents of its collections twice, page by page. The first round hands over one job for each distinct
URL that is due. A URL is due once in RECHECK_DAYS days, at a time that follows from a digest of it. The second round
serves the documents whose pictures are not those of the known content, such as those in another folder; it is skipped
if the first round met none.

A cover whose pictures were made by another recipe is downloaded in full and rendered again when it is due. A run over
outdated covers takes these alone, due or not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from pipeline.errors import PipelineError
from pipeline.events import RecheckOutcome
from pipeline.images.content_id import content_id
from pipeline.images.details.facts import is_wrong_type
from pipeline.images.identify import identify
from pipeline.job import Content, Job, Known, Source, Sweep, Validators
from pipeline.job_ids import sweep_job_id
from pipeline.recipe import Recipe
from pipeline.settings import get_settings
from pipeline.sweeps import documents, run_state, sources, sweep
from pipeline.sweeps.documents import RECHECK, SWEPT, WriteBack
from pipeline.sweeps.run_state import DocumentGroup, Run
from pipeline.sweeps.sources import Record, SourceCheck
from pipeline.sweeps.sweep import HandOver, NextPage, Taken

#: Maximum number of documents per page.
PAGE_SIZE = 2000

#: Before the first scheduled run, sources are due whose time was in the last so many days.
FIRST_DAYS = 1

#: The content id in the URL of a rendition.
_ID = re.compile(r"/([0-9a-f]{32})_[^/]*$")

#: Keys of a run's counts: documents that the second round may have to serve, and documents that were written.
LEFT, WRITTEN = "left", "documents"


@dataclass(frozen=True)
class RecheckScope:
    """The part of a run's record that is its own.

    Attributes:
        collections: their names.
        now: the time at which sources have to be due.
        since: sources that were never asked are due if their time was after this.
        everything: whether all sources are due.
        outdated: whether only outdated covers are taken. All their sources are due, except failing ones.
    """

    collections: list[str]
    now: datetime
    since: datetime
    everything: bool = False
    outdated: bool = False

    def selects(self, image: DocumentImage, record: Record | None, recipe: Recipe) -> bool:
        """Return whether the run is for an image, due or not."""
        return not self.outdated or (bool(image.names) and not image.is_made_by(recipe, record))

    def is_due(self, url: str, record: Record | None, days: int) -> bool:
        """Return whether a source is to be asked."""
        if self.everything or (self.outdated and not (record and record.failures)):
            return True
        if not days:
            return False
        asked = record.checked if record else self.since
        return asked < latest_time(url, self.now, days)


def latest_time(url: str, now: datetime, days: int) -> datetime:
    """Return the latest time up to `now` at which `url` was due. Its times lie `days` days apart."""
    period = days * 86_400
    phase = int(sources.source_id(url)[:12], 16) / 16**12 * period
    return now - timedelta(seconds=(now.timestamp() - phase) % period)


class Answer(Protocol):
    """The answer of a host (`pipeline.net.download.Download`)."""

    @property
    def image(self) -> bytes | None:
        """The bytes; None if the host confirmed that they have not changed."""

    @property
    def validators(self) -> Validators | None:
        """The validators for the next request."""

    @property
    def content_type(self) -> str:
        """The Content-Type of the bytes, as the host wrote it."""


def check_of(source: Source, sweep: Sweep, answer: Answer) -> SourceCheck | None:
    """Return the outcome of a re-check, or None if the bytes are others than those of the documents' pictures."""
    ended = partial(SourceCheck, source.url, run=sweep.run, group=sweep.cover)
    if answer.image is None and source.known:
        return ended(RecheckOutcome.NOT_MODIFIED)
    settings, image = get_settings(), answer.image or b""
    recipe = source.known.content.recipe if source.known else settings.recipe
    if content_id(image, recipe) != sweep.held:
        return None
    if source.known:
        known = replace(source.known, size=len(image), validators=answer.validators)
    else:
        identified = identify(image, max_pixels=settings.max_source_pixels, formats=recipe.formats)
        content = Content(sweep.held, identified.extension, recipe)
        wrong = is_wrong_type(answer.content_type, identified.format)
        known = Known(content, len(image), answer.validators, wrong)
    return ended(RecheckOutcome.SAME_BYTES, known)


def failed(source: Source, sweep: Sweep, error: PipelineError) -> SourceCheck:
    """Return the outcome of a re-check that is not attempted again."""
    return SourceCheck(source.url, RecheckOutcome.FAILED, error=error.code, run=sweep.run, group=sweep.cover)


@dataclass(frozen=True)
class DocumentImage:
    """One image field of one document."""

    collection: str
    field: str
    document: Any
    url: str
    folder: str
    content_id: str  #: that of its pictures; empty if it has none of ours
    names: frozenset[str] = frozenset()  #: of its pictures

    def is_made_by(self, recipe: Recipe, record: Record | None) -> bool | None:
        """Return whether `recipe` made its pictures from the known content; None if that is not known."""
        if self.names != {each.name for each in recipe.renditions}:
            return False
        return record.fits(recipe) and self.content_id == record.content_id if record and record.known else None

    def lags(self, record: Record | None) -> bool:
        """Return whether the document has other pictures than those of the known content.

        A source that fails is asked only when it is due.
        """
        return bool(record and record.known and not record.failures and self.content_id != record.content_id)

    @property
    def member(self) -> list[Any]:
        """The form in which a group's record lists it."""
        return [self.collection, self.field, self.document, self.folder]


def begin(
    run_id: str,
    collections: Sequence[str],
    *,
    by: str = "",
    scheduled_for: datetime | None = None,
    limit: int | None = None,
    everything: bool = False,
    outdated: bool = False,
    days: int | None = None,
) -> Run:
    """Record a new run, unless it is recorded already, and return the run as recorded.

    Sources are due once in `days` days, by default in RECHECK_DAYS of this process.
    """
    scope = scope_of(collections, scheduled_for or datetime.now(UTC), everything=everything, outdated=outdated)
    recorded = {name: value for name, value in vars(scope).items() if value is not False}  # as earlier releases read it
    days = get_settings().recheck_days if days is None else days
    return run_state.begin(
        RECHECK, run_id, by=by, scheduled_for=scheduled_for, limit=limit, recheck=recorded, recheck_days=days
    )


def scope_of(
    collections: Sequence[str], now: datetime, *, everything: bool = False, outdated: bool = False
) -> RecheckScope:
    """Return the scope of a run that begins now."""
    last = run_state.last_scheduled(RECHECK) or now - timedelta(days=FIRST_DAYS)
    return RecheckScope(list(collections), now, min(last, now), everything, outdated)


def take_page(run_id: str, page: int, *, by: str, hand_over: HandOver) -> NextPage | None:
    """Take a page as `pipeline.sweeps.sweep.take_page` does. The second round waits until the first has ended."""
    run = run_state.load(run_id)
    if run and run.page == page and not run.walked and run.after == _second_round(run) and run_state.under_way(run):
        return NextPage(page, sweep.PAUSE)
    return sweep.take_page(RECHECK, run_id, page, by=by, hand_over=hand_over, take=_take)


def _second_round(run: Run) -> list[Any]:
    """Return the position at which the second round begins."""
    return [len(run.recheck["collections"])]


def _take(run: Run, attempt: str, size: int, hand_over: HandOver) -> Taken:
    """Take a page. The position of a run is the number of collections read so far, and the last id of the page."""
    scope = RecheckScope(**run.recheck)
    step, after = (run.after[0], run.after[1:]) if run.after else (0, [])
    is_second = step >= len(scope.collections)
    if is_second and not run.counts.get(LEFT):
        return Taken(run.after, 0, walked=True)
    name = scope.collections[step % len(scope.collections)]
    found, reached = documents.read_settled(SWEPT[name], after, PAGE_SIZE)
    images = images_of(name, found)
    chosen = _Chosen(run, attempt, scope, sources.find_all(each.url for of_one in images for each in of_one))
    for document, of_one in zip(found, images, strict=True):
        for image in of_one:
            chosen.add(image, lagging=is_second)
        if len(chosen.groups) >= max(size, 1) and document is not found[-1]:
            reached = [document.id]
            break
    sent = _hand_over(run, attempt, chosen, hand_over)
    if run.limit is not None and run.claimed + sent >= run.limit and (scope.outdated or not is_second):
        return Taken(_second_round(run), sent, walked=scope.outdated)  # the next run finds what is still outdated
    position = [step, *reached] if reached else [step + 1]
    return Taken(position, sent, walked=position == [2 * len(scope.collections)])


def images_of(collection: str, found: Sequence[documents.Document]) -> list[list[DocumentImage]]:
    """Return the images of each document."""
    folders = documents.folders(SWEPT[collection], found)
    return [
        [
            DocumentImage(collection, field, each.id, url, folders[each.key], content_id_of(pictures), _names(pictures))
            for field, url in each.urls.items()
            for pictures in [each.seen[field]]
        ]
        for each in found
    ]


def _names(pictures: object) -> frozenset[str]:
    return frozenset(pictures) if isinstance(pictures, Mapping) else frozenset()


def content_id_of(pictures: object) -> str:
    """Return the content id in the URLs of a document's `…_extra_images`; empty if they have none or several."""
    if not isinstance(pictures, Mapping):
        return ""
    urls = [str(each.get("url")) if isinstance(each, Mapping) else "" for each in pictures.values()]
    ids = {match[1] if (match := _ID.search(url)) else "" for url in urls}
    return ids.pop() if len(ids) == 1 else ""


class _Chosen:
    """The groups of one page."""

    def __init__(self, run: Run, attempt: str, scope: RecheckScope, known: Mapping[str, Record]) -> None:
        self._run, self._attempt, self._scope, self._recipe = run, attempt, scope, get_settings().recipe
        self._days = get_settings().recheck_days if run.recheck_days is None else run.recheck_days
        self.known = known
        self.groups: dict[str, DocumentGroup] = {}
        self.held: dict[str, str] = {}  #: the content id that the documents of a group have
        self.left = 0

    def add(self, image: DocumentImage, *, lagging: bool) -> None:
        """Add a image to its group if it is to be asked for: in the first round if it is due, then if it lags."""
        record = self.known.get(image.url)
        if not self._scope.selects(image, record, self._recipe):
            return
        lags = image.lags(record)
        if lagging:
            if lags:
                self._join(image, "renew", image.folder, held="")
        elif lags and not self._has_downloaded(record):
            self.left += 1
        elif lags or self._scope.is_due(image.url, record, self._days):
            self._join(image, "check", held="" if image.is_made_by(self._recipe, record) is False else image.content_id)

    def _has_downloaded(self, record: Record | None) -> bool:
        """Return whether this run, probably, has downloaded the source, so that its group has the new pictures."""
        return bool(record and record.full and self._run.started and record.full >= self._run.started)

    def _join(self, image: DocumentImage, *kind: str, held: str) -> None:
        digest = hashlib.sha256(json.dumps([*kind, image.url]).encode()).hexdigest()[:32]
        group_id, urls = f"cover/{self._run.id}/{digest}", {image.field: image.url}
        if group_id not in self.groups:
            job_id = sweep_job_id(RECHECK.name, group_id, urls, self._run.id)
            self.groups[group_id] = DocumentGroup(group_id, self._run.id, job_id, urls, [], image.folder, self._attempt)
            self.held[group_id] = held
        self.groups[group_id].documents.append(image.member)
        if self.held[group_id] != held:
            self.held[group_id] = ""


def _hand_over(run: Run, attempt: str, chosen: _Chosen, hand_over: HandOver) -> int:
    """Record the groups, and send their jobs. Documents of a group whose job has ended are written at once."""
    groups, full = run_state.join_once(list(chosen.groups.values()))
    without_pictures = [group for group in groups if group.outcome and not group.outcome["stored"]]
    left = chosen.left + sum(len(group.documents) for group in full + without_pictures)
    run_state.count(run.id, Counter({LEFT: left}))
    sent = sweep.send_groups(run, attempt, groups, hand_over, lambda group: _job_of(group, chosen))
    for group in groups:
        if group.outcome is not None:
            _replace(group, group.outcome)
    return sent


def _job_of(group: DocumentGroup, chosen: _Chosen) -> Job:
    (url,) = group.urls.values()
    held = chosen.held[group.id]
    job = Job.of_sweep(
        Sweep(RECHECK.name, group.run, group.id, held), job_id=group.job, folder=group.folder, urls=group.urls
    )
    known = _to_ask_by(chosen.known.get(url), held)
    return replace(job, sources=tuple(replace(source, known=known) for source in job.sources))


def _to_ask_by(record: Record | None, held: str) -> Known | None:
    """Return what a job needs of a record. Without validators, it downloads all bytes."""
    if record is None or record.known is None or record.content_id != held:
        return None
    if record.may_be_asked_by_validators(datetime.now(UTC)):
        return record.known
    return replace(record.known, validators=None)


def write_back(sweep_: Sweep, source: Source, result: WriteBack) -> None:
    """Record how a re-check ended that got as far as the notify stage. Repeating it is harmless.

    The documents come first: as long as the source's record has the former content, a later run finds them lagging.

    Raises:
        RetryableError: MongoDB failed.
    """
    succeeded = RecheckOutcome.CHANGED if sweep_.held else RecheckOutcome.RENEWED
    outcome = RecheckOutcome.FAILED if source.error else succeeded
    known = sources.known_of(source) if not source.error else None
    check = SourceCheck(source.url, outcome, known, source.error["code"] if source.error else "")

    def finish(is_first: bool) -> None:
        sources.record(check)
        if is_first:
            run_state.count(sweep_.run, Counter({outcome.value: 1}))

    sweep.write_back(sweep_, result, write=_replace, finish=finish)


def _replace(group: DocumentGroup, result: WriteBack) -> None:
    """Replace the pictures of the documents in the folder of the job; the second round serves the others."""
    info = next(iter(result["stored"].values()), None)
    if not info or not group.documents:
        return
    (url,) = group.urls.values()
    folder = next(iter(info.values()))["bucket_path"].rstrip("/").rsplit("/", 1)[-1]
    ours = [member for member in group.documents if member[3] == folder]
    before = documents.pictures(SWEPT[ours[0][0]], ours[0][1], ours[0][2]) if ours else {}
    written = 0
    for (collection, field), ids in _by_field(ours).items():
        written += documents.replace_pictures(SWEPT[collection], field, url, info, ids)
    if written:
        run_state.replaced(group.id, before, written)
    run_state.count(group.run, Counter({WRITTEN: written, LEFT: len(group.documents) - len(ours)}))


def _by_field(members: Sequence[list[Any]]) -> dict[tuple[str, str], list[Any]]:
    """Return the ids of documents by collection and field."""
    found: dict[tuple[str, str], list[Any]] = {}
    for collection, field, document, _ in members:
        found.setdefault((collection, field), []).append(document)
    return found
