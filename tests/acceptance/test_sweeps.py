"""Sweeps from documents to documents: the Procfile's processes on a real MongoDB server."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from pipeline.local.embedded import EmbeddedStack
from tests.acceptance.conftest import SWEEPS_ALONE, Service, World, procfile_with, running_service
from tests.acceptance.test_cli import image_pipeline
from tests.acceptance.test_service import picture, unique
from tests.support.line import Line
from tests.support.waiting import wait_for

Documents = Database[dict[str, Any]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(tmp_path_factory.mktemp("sweeps")) as stack:
        yield stack


def database_url(stack: EmbeddedStack) -> str:
    return f"{stack.environ['MONGO_URL']}_{secrets.token_hex(4)}"


@contextmanager
def documents(url: str) -> Iterator[Documents]:
    with MongoClient[dict[str, Any]](url, tz_aware=True) as client:
        yield client.get_default_database()


@pytest.fixture(scope="module")
def line(stack: EmbeddedStack) -> Iterator[Line]:
    """The processes' line to MongoDB."""
    with Line(urlsplit(stack.environ["MONGO_URL"]).port or 0) as line:
        yield line


@pytest.fixture(scope="module")
def sweeping(stack: EmbeddedStack, line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, whose notify workers wait neither for the messages of a dead one nor for MongoDB for long."""
    merged, modules = ["fetch", "resize", "upload", "sweep"], {"notify": "brief_leases brief_mongo"}
    procfile = procfile_with(tmp_path_factory.mktemp("procfile"), merged=merged, modules=modules)
    through = f"mongodb://127.0.0.1:{line.port}/sweeps_{secrets.token_hex(4)}?serverSelectionTimeoutMS=500"
    with running_service(stack, procfile, SWEEPS_ALONE, MONGO_URL=through, RETRY_DELAYS=",".join("1" * 10)) as service:
        yield service


@pytest.fixture
def database(sweeping: Service, line: Line) -> Iterator[Documents]:
    """The service's database, which the test reaches without the line."""
    with documents(sweeping.environ["MONGO_URL"].replace(f":{line.port}/", f":{line.target}/")) as database:
        for name in ("channels", "episodes"):
            database[name].drop()
        yield database


def sweep(service: Service, *arguments: str, timeout: float = 200) -> str:
    done = image_pipeline("sweep", *arguments, environ=service.environ | {"COLUMNS": "300"}, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_channels_end_as_the_contract_specifies(sweeping: Service, world: World, database: Documents) -> None:
    # Given channels of every kind
    good, other = (world.serve(unique("/cover.png"), picture("PNG", (200 + n, 200))) for n in (0, 1))
    gone, down = world.url(unique("/gone.png")), world.serve(unique("/down.png"), b"later", 503)
    ends = datetime(2999, 1, 1, tzinfo=UTC)
    channels = {
        "both": {"image_url": good, "itunes_image": other, "metadata": {"kept": 1, "error_detail": {"old": 1}}},
        "same": {"image_url": good, "itunes_image": good},
        "one": {"image_url": good, "itunes_image": gone, "lock": True},
        "invalid": {"image_url": gone, "itunes_image": "N/A", "metadata": {"kept": 1}},
        "failed": {"image_url": down, "itunes_image": gone, "metadata": None},
        "expired": {"image_url": good, "lock": {"until": datetime(2001, 1, 1, tzinfo=UTC), "run": "dead"}},
        "unchanged": {"image_url": good, "last_image_url": good},
        "refused": {"image_url": "N/A", "itunes_image": good},
        "marked": {"image_url": good, "metadata": {"image_is_valid": False}},
        "claimed": {"image_url": good, "lock": {"until": ends, "run": "another"}},
        "nothing": {"image_url": "", "itunes_image": None},
    }
    before = {name: {"_id": name, "title": f"The {name}", **channel} for name, channel in channels.items()}
    database.channels.insert_many(before.values())

    # When they are swept
    output = sweep(sweeping, "channels", "--wait")

    # Then each document has the outcome of its images,
    after = {channel["_id"]: channel for channel in database.channels.find()}
    for name in ("unchanged", "refused", "marked", "claimed", "nothing"):
        assert after[name] == before[name]
    assert not [name for name, channel in after.items() if "lock" in channel and name != "claimed"]
    base = f"{sweeping.environ['AWS_ENDPOINT_URL']}/{sweeping.environ['S3_BUCKET']}/images-resized/THE_BOTH/"
    for field, url in (("image_url", good), ("itunes_image", other)):
        assert after["both"][f"last_{field}"] == url
        info = after["both"][f"{field}_extra_images"]
        assert set(info) == {"50x50", "250X250", "800x800"}
        assert info["50x50"]["url"].startswith(base)
        assert info["50x50"]["bucket_path"] == "images-resized/THE_BOTH/"
    assert after["both"]["metadata"] == {"kept": 1, "image_is_valid": True}
    assert after["same"]["image_url_extra_images"] == after["same"]["itunes_image_extra_images"]
    assert after["expired"]["last_image_url"] == good

    one = after["one"]
    assert (one["last_image_url"], one["last_itunes_image"]) == (good, gone)
    assert "itunes_image_extra_images" not in one
    detail = one["metadata"].pop("error_detail")
    assert (detail["field"], detail["stage"], detail["code"]) == ("itunes_image", "fetch", "http_404")
    assert one["metadata"] == {"image_is_valid": True}

    detail = after["invalid"]["metadata"].pop("error_detail")
    assert (detail["field"], detail["code"]) == ("image_url", "http_404")
    assert after["invalid"]["metadata"] == {"kept": 1, "image_is_valid": False}
    assert "last_image_url" not in after["invalid"]

    detail = after["failed"]["metadata"].pop("error_detail")
    assert (detail["field"], detail["code"]) == ("image_url", "http_503")
    assert after["failed"]["metadata"] == {"error": True}
    assert not {"last_image_url", "last_itunes_image"} & set(after["failed"])

    # the command prints the counts,
    assert "4 done, 1 invalid, 1 failed." in output
    # and a second sweep finds nothing to do.
    assert "0 done" in sweep(sweeping, "channels", "--wait")


def test_a_sweeping_worker_that_is_killed_repeatedly_loses_no_document(
    stack: EmbeddedStack, world: World, tmp_path: Path
) -> None:
    # Given a worker that is killed at each step of a page
    stages = ["fetch", "resize", "upload", "notify"]
    procfile = procfile_with(tmp_path, merged=stages, modules={"sweep": "brief_leases dying_sweeps"})
    # A second thread could be at the next page, which nothing would note.
    procfile.write_text(procfile.read_text().replace("--threads 2", "--threads 1"))
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    url = database_url(stack)
    more = {"MONGO_URL": url, "DEATHS": str(deaths)}
    more |= {"FETCH_TIMEOUT": "240", "FETCH_TOTAL_TIMEOUT": "240"}  # so that a busy machine causes no second attempt
    with running_service(stack, procfile, SWEEPS_ALONE, **more) as service, documents(url) as database:
        covers = [world.serve(unique(f"/{n}.jpg"), picture("JPEG", (100 + n, 100))) for n in range(50)]
        database.episodes.insert_many([{"_id": n, "itunes_image": covers[n % 50]} for n in range(100)])
        # When it sweeps
        sweep(service, "episodes", "--wait", timeout=180)
        # Then every document is done,
        pages = [set(json.loads(note.read_text())) for note in deaths.iterdir()]
        assert [len(page) for page in pages] == [10] * 5, (
            "it should die at each step, each time with a page in progress"
        )
        assert database.episodes.count_documents({"last_itunes_image": {"$in": covers}}) == 100
        assert database.episodes.count_documents({"lock": {"$exists": True}}) == 0
        # and each cover was fetched once, plus at most once for each of its pages that was interrupted.
        for n, cover in enumerate(covers):
            repeats = sum(bool({n, n + 50} & page) for page in pages)
            path = cover.removeprefix(world.url(""))
            assert 1 <= world.fetches.count(path) <= 1 + repeats, [line for _, line in service.lines if path in line]


def test_mongodb_down_at_the_write_back_repeats_no_earlier_stage(
    sweeping: Service, world: World, database: Documents, line: Line
) -> None:
    # Given a sweep's job that is waiting for notify
    path = unique("/cover.jpg")
    cover = world.serve(path, picture("JPEG", (420, 300)))
    database.channels.insert_one({"_id": 1, "title": "A", "image_url": cover})
    resized, failed = sweeping.log.count("stage=resize"), sweeping.log.count("mongo_error")
    sweeping.supervisor.stop("notify.1")
    try:
        sweep(sweeping, "channels")
        wait_for(lambda: sum(sweeping.counts("notify_bulk")) == 1)
        # When MongoDB is down for a while
        line.go_down()
        sweeping.supervisor.start("notify.1")
        wait_for(lambda: sweeping.log.count("mongo_error") > failed, timeout=60)
        assert "lock" in (database.channels.find_one() or {})
    finally:
        line.come_up()
        sweeping.supervisor.start("notify.1")
    # Then the document is written once MongoDB is back, and nothing is fetched or rendered again.
    wait_for(lambda: "last_image_url" in (database.channels.find_one() or {}), timeout=60)
    assert world.fetches.count(path) == 1
    assert sweeping.log.count("stage=resize") == resized + 1
    assert str(line.port) not in "".join(text for _, text in sweeping.lines if "mongo_error" in text)
