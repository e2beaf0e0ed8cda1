"""The documents that the demo sweeps, with their expected outcomes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId

from pipeline.clients import mongo
from pipeline.job import sweep_job_id
from pipeline.local.demo.jobs import ExpectedFailure
from pipeline.local.demo.samples import Sample
from pipeline.ops.sweeps import Progress, follow, start
from pipeline.sweeps.documents import CHANNELS, EPISODES, SWEPT, Swept


@dataclass
class DemoDocument:
    """One document: before the sweep, its expected outcome, and after the sweep."""

    swept: Swept
    about: str  #: why it is swept or not
    folder: str  #: the expected folder for the title of its channel
    before: dict[str, Any]
    expected: dict[str, Sample | ExpectedFailure]  #: by field of the document; empty if it should not be swept
    after: dict[str, Any] = field(default_factory=dict)
    job_id: str = ""  #: of its job; only one of the documents that share covers has a job

    @property
    def title(self) -> str:
        return str(self.before["title"])

    @property
    def urls(self) -> dict[str, str]:
        """The URLs of the images to process, by field of the document."""
        return {name: self.before[name] for name in self.expected}

    @property
    def infos(self) -> dict[str, Any]:
        """Its `…_extra_images` after the sweep by field of the image; None if they are missing."""
        return {name: self.after.get(f"{name}_extra_images") for name in self.swept.fields}

    @property
    def ending(self) -> str | None:
        """Its expected outcome in the counts of the run; None if it should not be swept."""
        if not self.expected:
            return None
        return "done" if any(isinstance(outcome, Sample) for outcome in self.expected.values()) else "invalid"


def make(samples: Mapping[str, Sample], covers_url: str) -> list[DemoDocument]:
    """Make the documents, without inserting them."""

    def document(
        swept: Swept, about: str, folder: str, images: Mapping[str, str | tuple[str, ExpectedFailure]], **more: Any
    ) -> DemoDocument:
        """Make a document; `images` has file names by stale field, with an expected failure if they should fail."""
        before = {"_id": ObjectId()} | more
        expected: dict[str, Sample | ExpectedFailure] = {}
        for image_field, image in images.items():
            file, expected[image_field] = image if isinstance(image, tuple) else (image, samples[image])
            before[image_field] = covers_url + file
        return DemoDocument(swept, about, folder, before, expected)

    radio, kitchen, maps = ObjectId(), ObjectId(), ObjectId()
    old = covers_url + "old.jpg"
    nowhere = ("nowhere.jpg", ExpectedFailure("fetch", "http_404", "not there"))
    in_an_hour = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    return [
        document(
            CHANNELS,
            "two new covers",
            "RADIO_ALBA",
            {"image_url": "marginalia.jpg", "itunes_image": "pixel-tales.gif"},
            _id=radio,
            title="Radio Alba",
            last_image_url=old,
            metadata={"language": "it"},
        ),
        document(
            CHANNELS,
            "one of two is gone",
            "KITCHEN_TABLE",
            {"image_url": "slow-coffee.webp", "itunes_image": nowhere},
            _id=kitchen,
            title="Kitchen Table",
        ),
        document(CHANNELS, "nothing new", "", {}, _id=maps, title="Old Maps", image_url=old, last_image_url=old),
        *(
            document(
                EPISODES,
                "one cover, one job",
                "RADIO_ALBA",
                {"itunes_image": "paper-boats.png"},
                title=title,
                channel_id=radio,
            )
            for title in ("Daybreak", "The Harbour", "Nightfall")
        ),
        document(
            EPISODES, "its cover is gone", "KITCHEN_TABLE", {"itunes_image": nowhere}, title="Salt", channel_id=kitchen
        ),
        document(
            EPISODES,
            "claimed by another run",
            "",
            {},
            title="Sea Monsters",
            channel_id=maps,
            itunes_image=old,
            lock={"until": in_an_hour, "run": "another"},
        ),
    ]


def flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a document, with those of its `metadata` as `metadata.…`."""
    metadata = {f"metadata.{name}": value for name, value in document.get("metadata", {}).items()}
    return {name: value for name, value in document.items() if name != "metadata"} | metadata


def sweep(documents: Sequence[DemoDocument], timeout: float) -> dict[str, Progress]:
    """Insert the documents, start a run for each collection as `image-pipeline sweep` does, and wait.

    Returns:
        The progress of each run by collection. A run that takes more than `timeout` seconds has not ended.
    """
    deadline = time.monotonic() + timeout
    database = mongo.database()
    for name in SWEPT:
        database[name].insert_many([each.before for each in documents if each.swept.name == name])
    runs = {name: start(swept, limit=None) for name, swept in SWEPT.items()}
    for each in documents:
        each.job_id = sweep_job_id(each.swept.name, each.before["_id"], each.urls, runs[each.swept.name])
    progress = {name: _follow(run, deadline) for name, run in runs.items()}
    for each in documents:
        each.after = database[each.swept.name].find_one({"_id": each.before["_id"]}) or {}
    return progress


def _follow(run: str, deadline: float) -> Progress:
    progress = Progress()
    for progress in follow(run):  # noqa: B007 - the last value is returned
        if time.monotonic() > deadline:
            break
    return progress
