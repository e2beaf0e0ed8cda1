"""Write-backs, and the records of runs, on the embedded MongoDB."""

from __future__ import annotations

import pytest

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


def test_a_rendition_that_names_its_format_is_written_under_that_name(database):
    # Given a name with a dot, which MongoDB could take for a path
    info = {
        name: {"url": f"https://s3/x_{name}", "bucket_path": "images-resized/A/"} for name in ("50x50", "50x50.webp")
    }
    episodes(database, 1)
    walker = Walker(EPISODES).go()

    sweep.write_back(walker.jobs[0].sweep, {"stored": {"itunes_image": info}, "errors": {}, "given_up": False})

    assert database.episodes.find_one()["itunes_image_extra_images"] == info
