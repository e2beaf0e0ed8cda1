"""Publish renditions to S3: keys, headers and public URLs (contract, section 3)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from pipeline.images.formats import format_by_extension
from pipeline.job import Content
from pipeline.metrics import STORED_BYTES, STORED_RENDITIONS
from pipeline.settings import Settings, get_settings
from pipeline.storage import s3
from pipeline.storage.s3 import S3Error
from pipeline.storage.stores import ACL_REFUSALS

logger = logging.getLogger(__name__)

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


def is_published(folder: str, content: Content) -> bool:
    """Return whether every rendition is in the bucket. Sends one request each until one is missing.

    Raises:
        RetryableError: S3 refused, or could not be reached.
    """
    bucket = get_settings().s3_bucket
    keys = (object_key(folder, content, name) for name in content.renditions)
    return all(s3.exists(bucket, key, doing="check a rendition") for key in keys)


def publish(folder: str, content: Content, renditions: Mapping[str, bytes]) -> None:
    """Store every rendition under its key.

    Raises:
        RetryableError: S3 refused, or could not be reached.
    """
    settings = get_settings()
    for name, data in renditions.items():
        headers = {
            "Content-Type": format_by_extension(content.extension_of(name)).content_type,
            "Cache-Control": settings.cache_control,
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
