"""The indexes of the sweeps' own collections."""

from __future__ import annotations

from pipeline.sweeps import indexes, run_state
from pipeline.sweeps.run_state import INDEXES
from tests.support.places import far_from_greenwich  # noqa: F401 - a fixture


def test_indexes_are_missing_until_they_are_created(database):
    database.create_collection(run_state.COLLECTION)
    assert list(indexes.missing(run_state.COLLECTION, run_state.INDEXES)) == list(INDEXES)

    for by, options, _ in INDEXES:
        indexes.create(run_state.COLLECTION, by, options)

    assert list(indexes.missing(run_state.COLLECTION, run_state.INDEXES)) == []
    found = database.image_pipeline_sweeps.index_information()
    assert found["expires_1"]["expireAfterSeconds"] == 0
    assert found["run_1"]["partialFilterExpression"] == {"pending": True}
