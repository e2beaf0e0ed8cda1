"""Known sources: their validators and content, in the collection `image_pipeline_sources` of the customer's database.

One document per distinct URL. Its `_id` is a digest of the URL. Its other fields:

    url                  the URL
    known                the content when the source was last downloaded: `content`, `size`, `validators`
    recipe               what besides the source determined the renditions of that content (`recipe_id`)
    checked, full        when the host was last asked; when it last sent all bytes
    failures, failing    re-checks that failed in a row; when the first of them was
    error                error code of the last re-check, if it failed
    expires              when nothing has asked for the source for long (a TTL index)

Only jobs of sweeps write here, so that producers of messages cannot fill the database. Jobs of both lanes read.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pymongo
from pydantic import TypeAdapter, ValidationError
from pymongo.errors import DuplicateKeyError

from pipeline.clients import mongo
from pipeline.errors import RetryableError
from pipeline.events import RecheckOutcome
from pipeline.images.content_id import recipe_id
from pipeline.job import Known, Source
from pipeline.metrics import RECHECKS
from pipeline.recipe import Recipe
from pipeline.settings import get_settings
from pipeline.sweeps import run_state
from pipeline.sweeps.documents import BULK_TIMEOUT
from pipeline.sweeps.indexes import Index

if TYPE_CHECKING:
    from pymongo.collection import Collection

logger = logging.getLogger(__name__)

COLLECTION = "image_pipeline_sources"

#: Days that a source is kept after it was last asked for, beyond two periods.
KEEP_DAYS = 90

#: Indexes: field, options, and purpose.
INDEXES: tuple[Index, ...] = (
    ("expires", {"expireAfterSeconds": 0}, "expires sources"),
    ("failing", {"sparse": True}, "lists failing sources"),
)

#: Seconds that a job waits for a record, and that jobs do without records after MongoDB failed.
FIND_TIMEOUT, REST = 0.5, 30.0

_KNOWN = TypeAdapter(Known)


@dataclass(frozen=True)
class Record:
    """One document of the collection."""

    url: str
    known: Known | None
    recipe: str
    checked: datetime
    full: datetime | None
    failures: int = 0
    failing: datetime | None = None
    error: str = ""

    @property
    def content_id(self) -> str | None:
        """The id of the known content."""
        return self.known.content.id if self.known else None

    def fits(self, recipe: Recipe) -> bool:
        """Return whether this release makes the known renditions by `recipe`."""
        return self.known is not None and self.known.content.recipe == recipe and self.recipe == recipe_id(recipe)

    def may_be_asked_by_validators(self, now: datetime) -> bool:
        """Return whether the last full download is recent enough: some hosts answer 304 forever."""
        days = timedelta(days=get_settings().recheck_full_days)
        return self.full is not None and now - self.full < days


@dataclass(frozen=True)
class SourceCheck:
    """An outcome to record.

    Attributes:
        url: the source.
        outcome: the outcome; None if a job of another sweep downloaded the source.
        known: the content, if all bytes were sent.
        error: error code of a failure.
        run: run of the re-check.
        group: its document group, which ends with this check unless the outcome is a changed cover.
    """

    url: str
    outcome: RecheckOutcome | None
    known: Known | None = None
    error: str = ""
    run: str = ""
    group: str = ""


def utcnow() -> datetime:
    """Return the present time; tests replace this function."""
    return datetime.now(UTC)


def source_id(url: str) -> str:
    """Return the `_id` of a source."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def known_of(source: Source) -> Known:
    """Return what a job of a sweep knows of a published source."""
    return Known(source.known_content, source.size, source.validators, source.has_wrong_type)


def find_all(urls: Iterable[str]) -> dict[str, Record]:
    """Return what is known of sources, by URL."""
    ids = [source_id(url) for url in dict.fromkeys(urls)]
    if not ids:
        return {}
    with mongo.mongo_errors("read the known sources", timeout=BULK_TIMEOUT):
        records = map(_record, _collection().find({"_id": {"$in": ids}}))
        return {record.url: record for record in records}


_rests_until = 0.0


def find(url: str) -> Record | None:
    """Return what is known of a source; None also without MongoDB, which no download has to wait for."""
    global _rests_until  # noqa: PLW0603 - one fact of the process
    if get_settings().database_url is None or time.monotonic() < _rests_until:
        return None
    try:
        with pymongo.timeout(FIND_TIMEOUT), mongo.mongo_errors("read a known source", timeout=FIND_TIMEOUT):
            found = _collection().find_one({"_id": source_id(url)})
    except RetryableError as error:
        _rests_until = time.monotonic() + REST
        logger.warning("Sources are downloaded in full for %g s: %s", REST, error)
        return None
    return _record(found) if found else None


def find_current(url: str) -> Known | None:
    """Return what is known of a source, if a conditional request may confirm the renditions that are made today."""
    found = find(url)
    if not (found and found.known and found.known.validators and found.fits(get_settings().recipe)):
        return None
    return found.known if found.may_be_asked_by_validators(utcnow()) else None


def failing(days: float, limit: int) -> list[Record]:
    """List sources whose re-checks have failed for so many days, longest first."""
    before = datetime.now(UTC) - timedelta(days=days)
    with mongo.mongo_errors("list the failing sources", timeout=BULK_TIMEOUT):
        found = _collection().find({"failing": {"$lt": before}}).sort("failing", 1).limit(limit)
        return [_record(each) for each in found]


def record(check: SourceCheck) -> None:
    """Record a check. The source comes first: a group must not end before what is known of its source is written.

    Raises:
        RetryableError: MongoDB failed. Recording it again is harmless.
    """
    with mongo.mongo_errors("record a check of a source"):
        try:
            _write(check)
        except DuplicateKeyError:  # another process inserted the same source at the same moment
            _write(check)
    if check.outcome and check.group and run_state.end_unchanged(check.group):
        run_state.count(check.run, Counter({check.outcome.value: 1}))
    if check.outcome:
        RECHECKS.labels(check.outcome.value).inc()


def _write(check: SourceCheck) -> None:
    now, settings = utcnow(), get_settings()
    kept = 2 * max(settings.recheck_days, settings.recheck_full_days) + KEEP_DAYS
    values: dict[str, Any] = {"url": check.url, "checked": now, "expires": now + timedelta(days=kept)}
    if check.outcome is RecheckOutcome.FAILED:
        changes = {"$set": values | {"error": check.error}, "$inc": {"failures": 1}, "$min": {"failing": now}}
    else:
        values["failures"] = 0
        if check.known:
            values["known"] = _KNOWN.dump_python(check.known, mode="json", exclude_defaults=True)
            values |= {"recipe": recipe_id(check.known.content.recipe), "full": now}
        changes = {"$set": values, "$unset": {"failing": "", "error": ""}}
    _collection().update_one({"_id": source_id(check.url)}, changes, upsert=True)


def _record(found: Mapping[str, Any]) -> Record:
    try:
        known = _KNOWN.validate_python(found["known"])
    except (KeyError, ValidationError, ValueError, TypeError):  # never downloaded, or another release wrote it
        known = None
    return Record(
        found["url"],
        known,
        found.get("recipe", ""),
        found["checked"],
        found.get("full"),
        found.get("failures", 0),
        found.get("failing"),
        found.get("error", ""),
    )


def _collection() -> Collection[dict[str, Any]]:
    return mongo.database()[COLLECTION]
