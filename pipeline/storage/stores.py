"""The differences between S3 and other object stores with its API, as data.

docs/object-stores.md shows the same table for people; a test compares them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit


@dataclass(frozen=True)
class ObjectStore:
    """A store, and what it does differently.

    Attributes:
        name: for people.
        hosts: a pattern of the host of its endpoint; empty if anyone may run it under any name.
        acl_refusal: its error code for an object that is stored with an ACL; empty if it takes or ignores ACLs.
        regions: a pattern of the values of S3_REGION that it accepts.
        region: a value for people to set.
        is_private: whether no one reads an object at `<endpoint>/<bucket>/<key>` without a signature.
        source: the store's own documentation of these facts.
    """

    name: str
    hosts: str
    acl_refusal: str
    regions: str
    region: str
    is_private: bool
    source: str


AMAZON_S3: Final = ObjectStore(
    name="Amazon S3",
    hosts=r"s3[.-].*\.amazonaws\.com(\.cn)?",
    acl_refusal="AccessControlListNotSupported",
    regions=".*",
    region="the bucket's",
    is_private=False,
    source="https://docs.aws.amazon.com/AmazonS3/latest/userguide/about-object-ownership.html",
)

STORES: Final = (
    AMAZON_S3,
    ObjectStore(
        name="Cloudflare R2",
        hosts=r".*\.r2\.cloudflarestorage\.com",
        acl_refusal="NotImplemented",
        regions="auto|us-east-1",
        region="auto",
        is_private=True,
        source="https://developers.cloudflare.com/r2/api/s3/api/",
    ),
    ObjectStore(
        name="Google Cloud Storage",
        hosts=r"storage\.googleapis\.com",
        acl_refusal="InvalidArgument",
        regions=".*",
        region="auto",
        is_private=False,
        source="https://cloud.google.com/storage/docs/uniform-bucket-level-access",
    ),
    ObjectStore(
        name="Backblaze B2",
        hosts=r"s3\..*\.backblazeb2\.com",
        acl_refusal="InvalidArgument",
        regions=".*",
        region="the part of the endpoint after `s3.`",
        is_private=False,
        source="https://www.backblaze.com/docs/cloud-storage-s3-compatible-api",
    ),
    ObjectStore(
        name="MinIO",
        hosts="",
        acl_refusal="",
        regions=".*",
        region="that of the server, `us-east-1` unless it is configured",
        is_private=False,
        source="https://docs.min.io/community/minio-object-store/reference/s3-api-compatibility.html",
    ),
    ObjectStore(
        name="Ceph",
        hosts="",
        acl_refusal="",
        regions=".*",
        region="any, or that of the zone group",
        is_private=False,
        source="https://docs.ceph.com/en/tentacle/radosgw/s3/",
    ),
    ObjectStore(
        name="SeaweedFS",
        hosts="",
        acl_refusal="",
        regions=".*",
        region="any",
        is_private=False,
        source="https://github.com/seaweedfs/seaweedfs/wiki/Amazon-S3-API",
    ),
)

#: Error codes that mean "no ACLs here", if the same request succeeds without one. Alone they prove nothing.
ACL_REFUSALS: Final = frozenset(store.acl_refusal for store in STORES if store.acl_refusal)

#: Error codes of stores that lack a part of the API.
NOT_IMPLEMENTED: Final = frozenset({"NotImplemented", "MethodNotAllowed", "501", "405"})


def store_at(endpoint: str | None) -> ObjectStore | None:
    """Return the store of an endpoint as far as its host reveals it; without an endpoint it is Amazon S3."""
    if endpoint is None:
        return AMAZON_S3
    host = urlsplit(endpoint).hostname or ""
    return next((store for store in STORES if store.hosts and re.fullmatch(store.hosts, host)), None)
