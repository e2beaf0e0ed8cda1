"""Write-backs, and the records of runs, on the embedded MongoDB."""

from __future__ import annotations

import pytest

from pipeline.clients import lazy, mongo
from pipeline.errors import RetryableError
from pipeline.sweeps import documents, run_state, sweep
from pipeline.sweeps.documents import CHANNELS, EPISODES
from tests.support.walker import Walker, end, episodes


def test_writing_back_twice_counts_and_writes_once(database):
    episodes(database, 5, covers=1)
    walker = Walker(EPISODES).go()

    end(walker.jobs[0])
    end(walker.jobs[0], good=False)  # the first outcome stands

    assert walker.record.counts == {"done": 5}
    assert database.episodes.count_documents({"metadata.image_is_valid": True}) == 5


def test_an_interrupted_write_back_is_completed(database, monkeypatch):
    episodes(database, 5, covers=1)
    walker = Walker(EPISODES).go()

    def dies(*_):
        raise RetryableError("mongo_error", "down")

    with monkeypatch.context() as patch:
        patch.setattr(documents, "write", dies)
        with pytest.raises(RetryableError):
            end(walker.jobs[0])
    assert run_state.under_way(walker.record) == 1
    end(walker.jobs[0], good=False)  # the first outcome stands

    assert walker.record.counts == {"done": 5}
    assert run_state.under_way(walker.record) == 0


def test_a_job_that_outlived_the_runs_record_is_ignored(database):
    episodes(database, 1)
    walker = Walker(EPISODES).go()
    database[run_state.COLLECTION].delete_many({})

    end(walker.jobs[0])

    assert "last_itunes_image" not in database.episodes.find_one()


def test_a_url_too_long_for_a_job_is_still_marked(database):
    url = "http://h/" + "x" * 10_000
    database.channels.insert_one({"_id": 1, "image_url": url})
    walker = Walker(CHANNELS).go()

    end(walker.jobs[0], good=False)

    assert database.channels.find_one()["metadata"]["image_is_valid"] is False


def test_the_ids_of_jobs_and_scheduled_runs_are_the_same_each_time(database):
    at = sweep.run_state.datetime(2026, 3, 1, 4, 5, 59, tzinfo=sweep.run_state.UTC)
    assert run_state.scheduled_id(CHANNELS, at) == "channels-2026-03-01T04:05Z"
    episodes(database, 1)
    first = Walker(EPISODES, "a").go().jobs[0].id
    database.episodes.update_one({}, {"$unset": {"lock": ""}})
    database[run_state.COLLECTION].delete_many({})
    again = Walker(EPISODES, "a").go().jobs[0].id
    database.episodes.update_one({}, {"$unset": {"lock": ""}})
    other = Walker(EPISODES, "b").go().jobs[0].id

    assert first == again != other


def test_the_last_scheduled_run_is_found_among_others(database):
    assert run_state.last_scheduled(CHANNELS) is None
    days = [sweep.run_state.datetime(2026, 3, day, 4, 5, tzinfo=sweep.run_state.UTC) for day in (2, 9, 1)]
    for at in days:
        run_state.begin(CHANNELS, run_state.scheduled_id(CHANNELS, at), by=str(at), scheduled_for=at)
    run_state.begin(CHANNELS, "channels-manual-1")
    run_state.begin(EPISODES, run_state.scheduled_id(EPISODES, days[0].replace(year=2027)))

    assert run_state.last_scheduled(CHANNELS) == days[1]


def test_beginning_a_recorded_run_again_does_not_change_it(database):
    run_state.begin(CHANNELS, "run", by="one", limit=3)

    assert run_state.begin(CHANNELS, "run", by="two").advanced_by == "one"


def test_an_error_of_mongodb_does_not_reveal_the_host(database, monkeypatch):
    monkeypatch.setenv("MONGO_URL", "mongodb://user:secret@127.0.0.1:1/db")
    monkeypatch.setattr(mongo, "SHORT_TIMEOUT", 0.2)
    lazy.forget()

    with pytest.raises(RetryableError) as caught:
        run_state.load("run")

    assert caught.value.code == "mongo_error"
    assert "127.0.0.1" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_rendition_that_names_its_format_is_written_under_that_name(database):
    # Given a name with a dot, which MongoDB could take for a path
    info = {
        name: {"url": f"https://s3/x_{name}", "bucket_path": "images-resized/A/"} for name in ("50x50", "50x50.webp")
    }
    episodes(database, 1)
    walker = Walker(EPISODES).go()

    sweep.write_back(walker.jobs[0].sweep, {"stored": {"itunes_image": info}, "errors": {}, "given_up": False})

    assert database.episodes.find_one()["itunes_image_extra_images"] == info
