"""Counting the stale documents of a collection; a claimed document is not stale until its claim ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.sweeps import documents
from pipeline.sweeps.documents import CHANNELS
from tests.integration.sweeps.test_documents import PAST, SOON, read_all
from tests.support.places import far_from_greenwich  # noqa: F401 - a fixture


@pytest.mark.parametrize(
    ("document", "count"),
    [
        ({"image_url": "a"}, 1),
        ({"image_url": "a", "last_image_url": "a"}, 0),
        ({"image_url": "a", "last_image_url": "a", "itunes_image": "b"}, 1),
        ({"image_url": "N/A", "itunes_image": "b"}, 0),
        ({"image_url": "", "itunes_image": "b"}, 1),
        ({"image_url": 7}, 0),
        ({"image_url": ["a"]}, 1),  # MongoDB's $type matches a list of strings; the sweep skips it later
        ({"image_url": "a", "metadata": {"image_is_valid": False}}, 0),
        ({"image_url": "a", "metadata": {"error": True}}, 0),
        ({"image_url": "a", "lock": True}, 1),
        ({"image_url": "a", "lock": {"until": PAST, "run": "other"}}, 1),
        ({"image_url": "a", "lock": {"until": SOON, "run": "other"}}, 0),
    ],
)
def test_a_stale_channel_is_counted(database, document, count):
    database.channels.insert_one(document)

    assert documents.count_stale(CHANNELS) == count


@pytest.mark.usefixtures("far_from_greenwich")
def test_a_claim_counts_until_it_ends(database):
    hour = timedelta(hours=1)
    for n, until in enumerate((datetime.now(UTC) - hour, datetime.now(UTC) + hour)):
        database.channels.insert_one({"_id": n, "image_url": "a", "lock": {"until": until, "run": "other"}})

    assert read_all(CHANNELS) == [0]
    assert documents.count_stale(CHANNELS) == 1
