"""The differences of object stores, as data."""

from __future__ import annotations

import pytest

from pipeline.storage.stores import ACL_REFUSALS, STORES, store_at
from tests.unit.test_docs import codes_in, rows_under


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        (None, "Amazon S3"),
        ("https://s3.eu-west-1.amazonaws.com", "Amazon S3"),
        ("https://s3-fips.us-gov-west-1.amazonaws.com", "Amazon S3"),
        ("https://0123abc.r2.cloudflarestorage.com", "Cloudflare R2"),
        ("https://0123abc.eu.r2.cloudflarestorage.com/", "Cloudflare R2"),
        ("https://storage.googleapis.com", "Google Cloud Storage"),
        ("https://s3.us-west-004.backblazeb2.com", "Backblaze B2"),
    ],
)
def test_a_store_is_known_by_its_endpoint(endpoint: str | None, name: str) -> None:
    found = store_at(endpoint)
    assert found
    assert found.name == name


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9000", "https://minio.example", "https://r2.cloudflarestorage.com.example"]
)
def test_a_store_under_any_name_is_not_guessed(endpoint: str) -> None:
    assert store_at(endpoint) is None


def test_three_kinds_of_answers_mean_no_acls_here() -> None:
    assert {"AccessControlListNotSupported", "NotImplemented", "InvalidArgument"} == ACL_REFUSALS
    assert "AccessDenied" not in ACL_REFUSALS, "a missing permission is not the absence of ACLs"


def test_the_page_of_stores_shows_the_same() -> None:
    rows = rows_under("object-stores.md", "Differences between stores")
    assert [row[0] for row in rows] == [store.name for store in STORES]
    for store, (_, region, acl, unsigned, source) in zip(STORES, rows, strict=True):
        assert region.replace("`", "") == store.region.replace("`", "")
        assert set(codes_in(acl)) == ({store.acl_refusal} if store.acl_refusal else set())
        assert unsigned.startswith("never") == store.is_private
        assert f"({store.source})" in source
