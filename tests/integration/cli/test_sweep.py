"""The commands `image-pipeline sweep ...` and their indexes, on real servers."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from pipeline.cli import app as cli
from pipeline.cli.app import app
from pipeline.cli.output import terminal
from pipeline.clients import lazy, mongo
from pipeline.settings import get_settings
from pipeline.sweeps import run_state
from pipeline.sweeps.documents import CHANNELS, EPISODES
from pipeline.sweeps.sweep import take_page

OLD = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def sweep(database, monkeypatch):
    """Runs `image-pipeline sweep` with these arguments; returns its output."""
    from pipeline.actors import broker

    monkeypatch.setattr(broker.queues, "namespace", get_settings().queue_namespace)
    monkeypatch.setattr(terminal.console, "_width", 200)

    def run(*arguments, status=0):
        result = CliRunner().invoke(app, ["sweep", *arguments])
        assert result.exit_code == status, result.output
        return result.output

    return run


def test_a_dry_run_counts_shows_ten_and_claims_nothing(sweep, database):
    database.channels.insert_one({"_id": 7, "title": "The Show"})
    database.episodes.insert_many(
        [
            {"_id": n, "title": f"Episode {n}", "itunes_image": f"http://h/{n}?token=x", "channel_id": 7}
            for n in range(25)
        ]
    )

    shown = sweep("episodes", "--dry-run")

    assert "25 episodes would be swept." in shown
    assert len(re.findall(r"Episode \d+ .* THE_SHOW .* itunes_image: h/\d+", shown)) == 10
    assert "token" not in shown
    assert database.episodes.count_documents({"lock": {"$exists": True}}) == 0
    assert database[run_state.COLLECTION].count_documents({}) == 0
    assert "3 episodes would be swept, of 25." in sweep("episodes", "--dry-run", "--limit", "3")


def test_control_codes_in_titles_do_not_reach_the_terminal(sweep, database, monkeypatch):
    # given a title with control sequences and a right-to-left mark, an id, and a terminal of 80 columns
    title = "[bold]\x1b[2J\x1b]0;pwned\x07\u202eshow"
    made = database.channels.insert_one({"title": title, "image_url": "http://h/a.jpg"}).inserted_id
    monkeypatch.setattr(terminal.console, "_width", 80)

    shown = sweep("channels", "--dry-run")

    assert not [char for char in shown if not char.isprintable() and char != "\n"]
    assert "[bold]?[2J" in shown
    assert str(made) in shown  # whole, so it can be looked up


def test_a_run_is_started_by_a_message_for_its_first_page(sweep, database):
    from pipeline.actors import broker

    database.episodes.insert_one({"itunes_image": "http://h/1"})

    output = sweep("episodes", "--limit", "5")

    (run_id,) = re.findall(r"episodes-manual-\w+", output)
    run = run_state.load(run_id)
    assert run
    assert (run.limit, run.page, run.collection) == (5, 0, "episodes")
    body = broker.sender.client().receive_message(QueueUrl=broker.queues.url("sweep_episodes"))["Messages"][0]["Body"]
    assert run_id in body


def marked(n, code, at):
    detail = {"field": "itunes_image", "stage": "fetch", "code": code, "message": "m", "at": at}
    return {"_id": n, "itunes_image": "http://h/1", "metadata": {"image_is_valid": False, "error_detail": detail}}


def test_retry_shows_its_plan_and_clears_only_matching_marks(sweep, database):
    now = datetime.now(UTC)
    database.episodes.insert_many([marked(1, "http_404", now), marked(2, "http_404", OLD), marked(3, "timeout", OLD)])

    shown = sweep("retry", "episodes")
    assert re.search(r"2 +http_404\s+1 +timeout", shown)
    assert "Nothing was changed" in shown
    assert database.episodes.count_documents({"metadata.image_is_valid": False}) == 3

    assert "the marks of 1 episodes" in sweep("retry", "episodes", "--code", "http_404", "--older-than", "7d", "--yes")
    assert [each["_id"] for each in database.episodes.find({"metadata": {}})] == [2]
    assert "No episodes have such a mark." in sweep("retry", "episodes", "--code", "http_500", "--yes")


def test_an_invalid_age_is_refused(sweep):
    assert "is not an age" in sweep("retry", "episodes", "--older-than", "7", status=2)


def test_an_error_of_a_service_points_to_the_check_command(monkeypatch, capsys):
    # given no database
    for name in ("MONGO_URL", "MONGO_URL_DEVELOP", "MONGO_URL_PRODUCTION"):
        monkeypatch.delenv(name, raising=False)
    lazy.forget()
    monkeypatch.setattr(mongo, "has_failed", False)  # after a failure, `main` ends the whole process
    monkeypatch.setattr("sys.argv", ["image-pipeline", "sweep", "channels", "--dry-run"])

    with pytest.raises(SystemExit) as ended:
        cli.main()

    output = capsys.readouterr().err
    assert ended.value.code == 2
    assert "No MongoDB variable is set." in output
    assert "Run `image-pipeline check`" in output


def test_a_stopped_run_takes_no_more_documents(sweep, database):
    # given a run with documents to take
    database.episodes.insert_many([{"_id": n, "itunes_image": f"http://h/{n}"} for n in range(5)])
    run = run_state.begin(EPISODES, "episodes-manual-1")
    sent = []
    # when it is stopped
    assert "The run episodes-manual-1 takes no more documents." in sweep("stop", run.id)
    # then it takes none, also if a page was in progress
    assert take_page(EPISODES, run.id, 0, by="m", hand_over=sent.extend) is None
    assert sent == []
    run_state.advance(run, ["x"], by="m", claimed=1, walked=False)
    stopped = run_state.load(run.id)
    assert (stopped.walked, stopped.stopped) == (True, True)
    # and it cannot be stopped twice
    assert "No such run takes documents." in sweep("stop", run.id, status=1)
    assert "No run takes documents." in sweep("stop")


def test_stop_without_a_run_stops_all(sweep, database):
    for collection in (CHANNELS, EPISODES):
        run_state.begin(collection, f"{collection.name}-manual-1")
    shown = sweep("stop")
    assert shown.count("takes no more documents") == 2
