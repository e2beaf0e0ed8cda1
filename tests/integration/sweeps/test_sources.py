"""Sources and their re-checks, as they are recorded."""

from __future__ import annotations

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from pipeline.events import RecheckOutcome
from pipeline.sweeps import recheck, run_state, sources
from pipeline.sweeps.sources import SourceCheck


def test_a_check_that_is_recorded_twice_counts_once(database):
    run = recheck.begin("recheck-manual-1", ["episodes"], everything=True).id
    group = run_state.DocumentGroup(f"cover/{run}/1", run, "job", {"itunes_image": "http://h/1"})
    run_state.join_once([group])

    for _ in range(2):
        sources.record(SourceCheck("http://h/1", RecheckOutcome.SAME_BYTES, run=run, group=group.id))

    assert run_state.load(run).counts == {"same_bytes": 1}
    assert run_state.under_way(run_state.load(run)) == 0


def test_a_source_that_another_process_inserts_at_the_same_moment_is_recorded_once_more(database, monkeypatch):
    # given an insert that MongoDB refuses once, because another process was quicker
    update_one, refused = Collection.update_one, []

    def race(self, *update, **options):
        if refused:
            return update_one(self, *update, **options)
        refused.append(1)
        raise DuplicateKeyError("E11000")

    monkeypatch.setattr(Collection, "update_one", race)
    # when a failure is recorded, then it counts once
    sources.record(SourceCheck("http://h/1", RecheckOutcome.FAILED, error="timeout"))
    assert [each["failures"] for each in database[sources.COLLECTION].find()] == [1]
