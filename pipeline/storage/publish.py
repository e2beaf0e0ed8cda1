"""Publish renditions to S3: keys, headers and public URLs (contract, section 3)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.images.details.facts import SourceFacts, parse_facts
from pipeline.images.formats import format_by_extension
from pipeline.job import Content, Details, Job
from pipeline.metrics import STORED_BYTES, STORED_RENDITIONS
from pipeline.payload import Payload
from pipeline.settings import Settings, get_settings
from pipeline.storage import s3
from pipeline.storage.s3 import S3Error
from pipeline.storage.stores import ACL_REFUSALS

logger = logging.getLogger(__name__)

#: The name of the metadata with the facts of the source: S3's header is `x-amz-meta-source`.
FACTS = "source"

#: Set once the bucket has refused an ACL and taken the same object without; not reset before the process ends.
_acls_disabled = threading.Event()


def bucket_path(folder: str) -> str:
    """Return the path of a folder in the bucket with a trailing slash, such as `images-resized/TEST/`."""
    return f"{get_settings().s3_prefix.strip('/')}/{folder}/"


def object_key(folder: str, content: Content, rendition: str) -> str:
    extension = content.extension_of(rendition)
    return f"{bucket_path(folder)}{content.id}_{rendition.removesuffix(extension)}{extension}"


def image_info(folder: str, content: Content) -> dict[str, dict[str, str]]:
    """Return the `…_info` of a result: `url` and `bucket_path` by rendition name."""
    base = get_settings().public_url_base
    return {
        name: {"url": f"{base}/{object_key(folder, content, name)}", "bucket_path": bucket_path(folder)}
        for name in content.renditions
    }


def with_details(job: Job, result: Payload) -> Payload:
    """Return a result with the details of those sources that have any (contract, section 4)."""
    detailed = dict(result)
    for source in job.sources:
        if source.details is None or source.error:
            continue
        renditions, facts = _renditions(source.known_content, source.details), source.details.facts
        for field in source.fields:
            info = result[f"{field}_info"]
            detailed[f"{field}_info"] = {name: {**info[name], **renditions[name]} for name in info}
            detailed[f"{field}_source"] = facts.as_result(has_wrong_type=source.has_wrong_type)
    return detailed


def _renditions(content: Content, details: Details) -> dict[str, dict[str, Any]]:
    """Return the details of each rendition by name."""
    return {
        each.name: {
            "width": each.width,
            "height": each.height,
            "bytes": details.sizes[each.name],
            "content_type": _content_type(content, each.name),
        }
        for each in content.recipe.renditions
    }


@dataclass(frozen=True)
class Published:
    """An image with all its renditions in the bucket."""

    details: Details | None = None  #: with RESULT_DETAILS


def find_published(folder: str, content: Content) -> Published | None:
    """Return an image if every rendition is in the bucket. Sends one request each until one is missing.

    With RESULT_DETAILS, an image that was stored without its facts counts as missing: it is rendered and stored once
    more, with the same bytes under the same keys.

    Raises:
        RetryableError: S3 refused, or could not be reached.
    """
    settings = get_settings()
    keys = {name: object_key(folder, content, name) for name in content.renditions}
    if not settings.result_details:
        found = all(s3.head(settings.s3_bucket, key, doing="check a rendition") for key in keys.values())
        return Published() if found else None
    facts, sizes = None, {}
    for name, key in keys.items():
        stored = s3.head(settings.s3_bucket, key, doing="check a rendition")
        facts = facts or (stored and parse_facts(stored.metadata.get(FACTS, "")))
        if not stored or not facts:
            return None
        sizes[name] = stored.size
    return Published(Details(facts, sizes)) if facts else None


def _content_type(content: Content, rendition: str) -> str:
    return format_by_extension(content.extension_of(rendition)).content_type


def publish(folder: str, content: Content, renditions: Mapping[str, bytes], facts: SourceFacts | None = None) -> None:
    """Store every rendition under its key, with the facts of its source, if given, as metadata.

    Raises:
        RetryableError: S3 refused, or could not be reached.
    """
    settings = get_settings()
    metadata = {FACTS: facts.to_json()} if facts else {}
    for name, data in renditions.items():
        headers = {
            "Content-Type": _content_type(content, name),
            "Cache-Control": settings.cache_control,
            **metadata,
        }
        _put(settings, object_key(folder, content, name), data, headers)
        STORED_RENDITIONS.inc()
        STORED_BYTES.inc(len(data))


def _put(settings: Settings, key: str, data: bytes, headers: Mapping[str, str]) -> None:
    acl = "" if settings.s3_acl == "none" or _acls_disabled.is_set() else settings.s3_acl
    try:
        s3.put(settings.s3_bucket, key, data, doing="store a rendition", headers=headers, acl=acl)
    except S3Error as error:
        if not acl or error.reason not in ACL_REFUSALS:
            raise
        s3.put(settings.s3_bucket, key, data, doing="store a rendition", headers=headers)
        if not _acls_disabled.is_set():
            _acls_disabled.set()
            logger.warning(
                "The bucket %s takes no ACLs: the store answered %s. Objects are stored without. Set S3_ACL=none to "
                "avoid this warning.",
                settings.s3_bucket,
                error.reason,
            )
