"""A time zone far from UTC, where times without a zone are hours off."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest


@pytest.fixture
def far_from_greenwich() -> Iterator[None]:
    """Set the local time zone to UTC+5:45."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        yield
    time.tzset()
