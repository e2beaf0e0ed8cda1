"""Documents with error marks, for people."""

from __future__ import annotations

from datetime import UTC, datetime

from pipeline.sweeps.documents import CHANNELS
from pipeline.sweeps.marks import MarkedDocument, list_marks

AT = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_mark_is_shown_with_its_reason_and_incomplete_ones_without(database):
    # Given documents with a mark, with marks that someone else wrote, and without one
    detail = {"code": "http_404", "message": "It answered 404.", "at": AT}
    database.channels.insert_many(
        [
            {"_id": 1, "title": "One", "image_url": "http://h/1", "metadata": {"error": True, "error_detail": detail}},
            {"_id": 2, "itunes_image": "N/A", "metadata": {"error": True, "error_detail": "broken"}},
            {"_id": 3, "metadata": {"error": True, "error_detail": {"code": 7, "at": "yesterday"}}},
            {"_id": 4, "title": "Good", "image_url": "http://h/4"},
        ]
    )
    # When they are listed, then each marked one is.
    assert sorted(list_marks(CHANNELS, 9), key=lambda each: each.id) == [
        MarkedDocument("1", "One", {"image_url": "http://h/1"}, "http_404", "It answered 404.", AT),
        MarkedDocument("2", "", {}, "", "", None),
        MarkedDocument("3", "", {}, "7", "", None),
    ]
    assert len(list_marks(CHANNELS, 2)) == 2
