"""`provision`."""

from __future__ import annotations

import re

from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from pipeline.sweeps import run_state, sources


def test_provision_announces_the_indexes_and_creates_them_once(database):
    def steps():
        return [change for change in plan(get_settings()) if "MongoDB" in change.message]

    assert [re.findall(r"by (\w+)", change.message)[0] for change in steps()] == [
        *("expires", "run", "expires", "failing")
    ]
    for change in steps():
        change.apply()

    assert steps() == []
    indexes = database[run_state.COLLECTION].index_information()
    assert indexes["expires_1"]["expireAfterSeconds"] == 0
    assert indexes["run_1"]["partialFilterExpression"] == {"pending": True}
    assert database[sources.COLLECTION].index_information()["expires_1"]["expireAfterSeconds"] == 0
    assert "channels" not in database.list_collection_names()
