"""The differences of object stores."""

from __future__ import annotations

import pytest

from pipeline.storage.stores import ACL_REFUSALS, is_r2
from tests.unit.test_docs import codes_in, rows_under


@pytest.mark.parametrize(
    ("endpoint", "known"),
    [
        ("https://0123abc.r2.cloudflarestorage.com", True),
        ("https://0123abc.eu.r2.cloudflarestorage.com/", True),
        (None, False),
        ("https://s3.eu-west-1.amazonaws.com", False),
        ("http://127.0.0.1:9000", False),
        ("https://r2.cloudflarestorage.com.example", False),
    ],
)
def test_r2_is_known_by_its_endpoint(endpoint: str | None, known: bool) -> None:
    assert is_r2(endpoint) == known


def test_the_page_of_stores_lists_the_same_refusals() -> None:
    rows = rows_under("object-stores.md", "Differences between stores")
    assert {code for row in rows for code in codes_in(row[2])} == ACL_REFUSALS
    assert "AccessDenied" not in ACL_REFUSALS, "a missing permission is not the absence of ACLs"
