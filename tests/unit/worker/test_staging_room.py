"""Fetch pauses while its staging folder has little room."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.sqs.in_hand import InHand
from pipeline.sqs.loop import Clock
from pipeline.storage.staging import LocalStaging
from pipeline.worker import staging_room
from pipeline.worker.staging_room import StagingRoom, Watch
from tests.support.waiting import wait_for

MB, GB = 1_000_000, 1_000_000_000
MOST = 10


@dataclass
class Room:
    """A real folder on a file system whose sizes the test sets, and the pauses that a watch asks for."""

    folder: Path
    free: int = 50 * GB
    total: int = 100 * GB
    is_busy: bool = True
    pauses: list[str] = field(default_factory=list)
    looks: int = 0

    def usage(self, folder: Path) -> Any:
        self.looks += 1
        os.stat(folder)  # raises for a missing folder, as `shutil.disk_usage` does
        return SimpleNamespace(total=self.total, free=self.free)

    def pause(self, *, by: str, why: str) -> None:
        assert by == "staging"
        self.pauses.append(why)

    def watch(self) -> Watch:
        return Watch(LocalStaging(self.folder), self.pause, lambda: self.is_busy, self.usage)

    def hold(self, files: int, age: float = 0) -> None:
        """Make the folder hold so many files, all of this age in seconds."""
        self.folder.mkdir(exist_ok=True)
        for old in self.folder.glob("*/*"):
            old.unlink()
        for number in range(files):
            path = self.folder / f"{number % 3:02x}" / f"{number:032x}"
            path.parent.mkdir(exist_ok=True)
            path.touch()
            os.utime(path, (0, time.time() - age))

    @property
    def is_paused(self) -> bool:
        return bool(self.pauses and self.pauses[-1])


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    monkeypatch.setattr(staging_room, "MAX_COVERS", MOST)
    room = Room(tmp_path / "staging")
    room.hold(0)
    return room


@pytest.mark.parametrize(
    ("total", "least"),
    [
        pytest.param(400 * MB, 100 * MB, id="a quarter of a small file system"),
        pytest.param(2 * GB, staging_room.MIN_FREE, id="the minimum"),
        pytest.param(10 * GB, GB, id="a tenth"),
        pytest.param(1000 * GB, staging_room.MAX_FREE, id="the maximum"),
    ],
)
def test_fetch_pauses_on_a_nearly_full_disk_until_twice_the_room_is_free(room: Room, total: int, least: int) -> None:
    room.total, room.free = total, least
    watch = room.watch()
    watch.step()
    assert not room.is_paused
    # When the room falls below the limit, then fetch pauses,
    room.free = least - 1
    watch.step()
    assert "the file system of the staging folder has" in room.pauses[-1]
    # and it stays paused until twice the room is free.
    room.free = 2 * least - 1
    watch.step()
    assert room.is_paused
    room.free = 2 * least
    watch.step()
    assert not room.is_paused


def test_fetch_pauses_on_many_young_files_until_half_of_them_are_gone(room: Room) -> None:
    room.hold(MOST)
    watch = room.watch()
    assert watch.step() == staging_room.INTERVAL
    assert not room.is_paused
    room.hold(MOST + 1)
    watch.step()
    assert room.pauses[-1] == f"the staging folder holds {MOST + 1} files younger than an hour"
    # When some are gone, then it stays paused,
    room.hold(MOST // 2 + 1)
    watch.step()
    assert room.is_paused
    # and it goes on with half of them.
    room.hold(MOST // 2)
    watch.step()
    assert not room.is_paused


def test_a_pause_ends_once_its_files_are_old(room: Room) -> None:
    # Given a pause because of files that no stage takes
    room.hold(2 * MOST)
    watch = room.watch()
    watch.step()
    assert room.is_paused
    # When they are an hour old, then fetch goes on.
    room.hold(2 * MOST, age=3601)
    watch.step()
    assert not room.is_paused


def test_each_pause_is_logged_once_when_it_begins_and_once_when_it_ends(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    watch = room.watch()
    with caplog.at_level(logging.INFO, staging_room.__name__):
        for files in (0, MOST + 3, MOST + 2, MOST + 1, 0, 0):
            room.hold(files)
            watch.step()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"Fetch pauses: the staging folder holds {MOST + 3} files younger than an hour."),
        ("INFO", "Fetch goes on: the staging folder has room again."),
    ]


def test_the_reason_of_a_pause_stays_current(room: Room) -> None:
    # Given a pause because of many files
    room.hold(MOST + 1)
    watch = room.watch()
    watch.step()
    # When they are gone, but the disk is full, then the reason is the disk.
    room.hold(0)
    room.free = 5 * MB
    watch.step()
    assert room.pauses[-1] == "the file system of the staging folder has 5 MB left"


def test_a_pause_ends_when_the_folder_is_removed(room: Room) -> None:
    room.hold(MOST + 1)
    watch = room.watch()
    watch.step()
    room.hold(0)
    for shelf in room.folder.iterdir():
        shelf.rmdir()
    room.folder.rmdir()
    watch.step()
    assert not room.is_paused


@pytest.mark.parametrize(
    "fill", [lambda room: room.hold(MOST + 1), lambda room: setattr(room, "free", 0)], ids=["files", "disk"]
)
def test_a_subfolder_that_cannot_be_read_hides_no_trouble(room: Room, fill: Callable[[Room], None]) -> None:
    # Given a folder that is the root of a volume: `lost+found` there belongs to root. A loop fails for root too.
    fill(room)
    (room.folder / "lost+found").symlink_to("lost+found")
    # When the watch looks at it, then fetch pauses.
    room.watch().step()
    assert room.is_paused


def test_the_folder_is_not_examined_while_nothing_can_fill_it(room: Room) -> None:
    # Given an idle worker and a full folder
    room.hold(MOST + 1)
    room.is_busy = False
    watch = room.watch()
    # When nothing is in progress, then the watch does not look,
    watch.step()
    assert (room.looks, room.pauses) == (0, [])
    # but in a pause it does, because nothing is in progress then either.
    room.is_busy = True
    watch.step()
    assert room.is_paused
    room.is_busy = False
    room.hold(0)
    watch.step()
    assert not room.is_paused


def test_a_worker_that_stops_in_a_pause_leaves_none_behind(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a busy worker whose folder is full
    monkeypatch.setattr(staging_room, "staging", lambda: LocalStaging(room.folder))
    room.hold(MOST + 1)
    in_hand = InHand(Clock(), is_bulk=lambda queue: False)
    in_hand.working[object()] = object()  # type: ignore[index, assignment]
    broker, worker = SimpleNamespace(in_hand=in_hand), SimpleNamespace(consumer_whitelist={"fetch"})
    middleware = StagingRoom()
    middleware.after_worker_boot(broker, worker)  # type: ignore[arg-type]
    wait_for(lambda: in_hand.paused)
    # When it stops, then the next worker of this process does not start with the pause.
    middleware.after_worker_shutdown(broker, worker)  # type: ignore[arg-type]
    assert not in_hand.paused
