"""Sweeps and re-checks the episodes of a test, and waits for the end."""

from __future__ import annotations

from pipeline.ops import rechecks
from pipeline.ops import sweeps as sweeping
from pipeline.sweeps import run_state
from pipeline.sweeps.documents import EPISODES
from tests.support.dead import counts
from tests.support.waiting import wait_for

EXTRA = "itunes_image_extra_images"


def episodes(database, urls, copies=1, channel=1):
    database.channels.update_one({"_id": channel}, {"$set": {"title": f"Show {channel}"}}, upsert=True)
    database.episodes.insert_many(
        {"itunes_image": url, "channel_id": channel, "other": [copy]} for url in urls for copy in range(copies)
    )


def swept(database):
    """Sweep the episodes as every night; returns them by id."""
    ended(sweeping.start(EPISODES, limit=None))
    return by_id(database)


def by_id(database):
    return {each["_id"]: each for each in database.episodes.find()}


def ended(run):
    """Wait for the end of a run, and of its jobs, which count how they ended last; returns it as it is then."""
    wait_for(lambda: (found := run_state.load(run)).walked and not run_state.under_way(found))
    wait_for(lambda: all(counts(queue) == (0, 0) for queue in ("fetch_bulk", "notify_bulk")))
    return run_state.load(run)


def rechecked(**options) -> dict[str, int]:
    """Re-check everything now; returns the run's counts."""
    return {name: n for name, n in ended(rechecks.start(everything=True, **options)).counts.items() if n}
