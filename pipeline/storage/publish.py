"""The finished renditions: their keys, headers, public URLs, and whether they are there
already (contract, section 3)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from pipeline.images.formats import format_by_extension
from pipeline.job import Content
from pipeline.metrics import STORED_BYTES, STORED_RENDITIONS
from pipeline.settings import Settings, get_settings
from pipeline.storage import s3 as objects
from pipeline.storage.s3 import S3Error

logger = logging.getLogger(__name__)

#: How S3 says that a bucket has ACLs disabled.
ACLS_DISABLED = "AccessControlListNotSupported"

#: Set for the life of the process once the bucket refused an ACL.
_acls_disabled = threading.Event()


def bucket_path(folder: str) -> str:
    """The folder's path in the bucket, with its slash: `images-resized/TEST/`."""
    return f"{get_settings().s3_prefix.strip('/')}/{folder}/"


def object_key(folder: str, content: Content, rendition: str) -> str:
    """The key of one rendition."""
    return f"{bucket_path(folder)}{content.id}_{rendition}{content.extension}"


def image_info(folder: str, content: Content) -> dict[str, dict[str, str]]:
    """What a result says of one image: for each rendition its `url` and `bucket_path`."""
    base = get_settings().public_url_base
    return {
        name: {"url": f"{base}/{object_key(folder, content, name)}", "bucket_path": bucket_path(folder)}
        for name in content.renditions
    }


def is_published(folder: str, content: Content) -> bool:
    """Whether every rendition is in the bucket: one request each, up to the first that is not.

    Raises:
        RetryableError: S3 could not be asked.
    """
    bucket = get_settings().s3_bucket
    keys = (object_key(folder, content, name) for name in content.renditions)
    return all(objects.exists(bucket, key, doing="look for a rendition") for key in keys)


def publish(folder: str, content: Content, renditions: Mapping[str, bytes]) -> None:
    """Put every rendition where its URL says it is.

    Raises:
        RetryableError: S3 could not be reached, or refused.
    """
    settings = get_settings()
    headers = {
        "Content-Type": format_by_extension(content.extension).content_type,
        "Cache-Control": settings.cache_control,
    }
    for name, data in renditions.items():
        _put(settings, object_key(folder, content, name), data, headers)
        STORED_RENDITIONS.inc()
        STORED_BYTES.inc(len(data))


def _put(settings: Settings, key: str, data: bytes, headers: Mapping[str, str]) -> None:
    acl = "" if settings.s3_acl == "none" or _acls_disabled.is_set() else settings.s3_acl
    try:
        objects.put(settings.s3_bucket, key, data, doing="store a rendition", headers=headers, acl=acl)
    except S3Error as error:
        if not acl or error.said != ACLS_DISABLED:
            raise
        if not _acls_disabled.is_set():
            _acls_disabled.set()
            logger.warning("The bucket %s has ACLs disabled: S3_ACL=none would say so.", settings.s3_bucket)
        objects.put(settings.s3_bucket, key, data, doing="store a rendition", headers=headers)
