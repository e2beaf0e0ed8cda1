"""The finished renditions: their keys, headers, public URLs, and whether they are there
already (contract, section 3)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from pipeline import clients
from pipeline.images import format_by_extension
from pipeline.job import Content
from pipeline.metrics import STORED_BYTES, STORED_RENDITIONS
from pipeline.settings import get_settings

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import PutObjectRequestTypeDef

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
    return all(_exists(object_key(folder, content, name)) for name in content.renditions)


def publish(folder: str, content: Content, renditions: Mapping[str, bytes]) -> None:
    """Put every rendition where its URL says it is.

    Raises:
        RetryableError: S3 could not be reached, or refused.
    """
    content_type = format_by_extension(content.extension).content_type
    for name, data in renditions.items():
        _put(object_key(folder, content, name), data, content_type)
        STORED_RENDITIONS.inc()
        STORED_BYTES.inc(len(data))


def _exists(key: str) -> bool:
    with clients.aws_trouble("s3", "look for a rendition"):
        try:
            clients.s3().head_object(Bucket=get_settings().s3_bucket, Key=key)
        except ClientError as error:
            if clients.aws_code(error) in clients.MISSING_OBJECT:
                return False
            raise
        return True


def _put(key: str, data: bytes, content_type: str) -> None:
    settings = get_settings()
    request: PutObjectRequestTypeDef = {
        "Bucket": settings.s3_bucket,
        "Key": key,
        "Body": data,
        "ContentType": content_type,
        "CacheControl": settings.cache_control,
    }
    acl: Mapping[str, Any] = {} if settings.s3_acl == "none" or _acls_disabled.is_set() else {"ACL": settings.s3_acl}
    with clients.aws_trouble("s3", "store a rendition"):
        try:
            clients.s3().put_object(**request, **acl)
        except ClientError as error:
            if not acl or clients.aws_code(error) != ACLS_DISABLED:
                raise
            if not _acls_disabled.is_set():
                _acls_disabled.set()
                logger.warning("The bucket %s has ACLs disabled: S3_ACL=none would say so.", settings.s3_bucket)
            clients.s3().put_object(**request)
