"""The documents that the demo sweeps, and what should come of each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId

from pipeline.clients import mongo
from pipeline.job import sweep_job_id
from pipeline.local.demo.jobs import Failure
from pipeline.local.demo.samples import Sample
from pipeline.ops import sweeps as sweeping
from pipeline.ops.sweeps import Progress
from pipeline.sweeps.documents import CHANNELS, EPISODES, SWEPT, Swept


@dataclass
class DemoDocument:
    """One document: as it is before the sweeps, what should come of it, and as it is after them."""

    swept: Swept
    about: str  #: why it is swept, or not
    folder: str  #: what the title of its channel should become
    before: dict[str, Any]
    expected: dict[str, Sample | Failure]  #: by the document's field; nothing: it should be left alone
    after: dict[str, Any] = field(default_factory=dict)
    job_id: str = ""  #: of the job that it leads; of documents that share their covers only one does

    @property
    def title(self) -> str:
        """What people call it."""
        return str(self.before["title"])

    @property
    def urls(self) -> dict[str, str]:
        """The images that should be processed, by the document's field."""
        return {name: self.before[name] for name in self.expected}

    @property
    def infos(self) -> dict[str, Any]:
        """Its `…_extra_images` after the sweeps, by the image's field; None where there are none."""
        return {name: self.after.get(f"{name}_extra_images") for name in self.swept.fields}

    @property
    def ending(self) -> str | None:
        """What its run should count it as; None if it should leave it alone."""
        if not self.expected:
            return None
        return "done" if any(isinstance(outcome, Sample) for outcome in self.expected.values()) else "invalid"


def make(samples: Mapping[str, Sample], covers_url: str) -> list[DemoDocument]:
    """The documents, none of them in MongoDB yet."""

    def document(
        swept: Swept, about: str, folder: str, images: Mapping[str, str | tuple[str, Failure]], **more: Any
    ) -> DemoDocument:
        """`images` are file names by the field that is stale, beside a failure if that is what should come of them."""
        before = {"_id": ObjectId()} | more
        expected: dict[str, Sample | Failure] = {}
        for image_field, image in images.items():
            file, expected[image_field] = image if isinstance(image, tuple) else (image, samples[image])
            before[image_field] = covers_url + file
        return DemoDocument(swept, about, folder, before, expected)

    radio, kitchen, maps = ObjectId(), ObjectId(), ObjectId()
    old = covers_url + "old.jpg"
    nowhere = ("nowhere.jpg", Failure("fetch", "http_404", "not there"))
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
            "another run has it",
            "",
            {},
            title="Sea Monsters",
            channel_id=maps,
            itunes_image=old,
            lock={"until": in_an_hour, "run": "another"},
        ),
    ]


def flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a document, those of its `metadata` as `metadata.…`."""
    metadata = {f"metadata.{name}": value for name, value in document.get("metadata", {}).items()}
    return {name: value for name, value in document.items() if name != "metadata"} | metadata


def sweep(documents: Sequence[DemoDocument], timeout: float) -> dict[str, Progress]:
    """Put the documents into MongoDB, start a run over each collection as `image-pipeline sweep` does, and wait.

    Returns how far each run has come, by its collection: to its end, unless that took more than `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    database = mongo.database()
    for name in SWEPT:
        database[name].insert_many([each.before for each in documents if each.swept.name == name])
    runs = {name: sweeping.start(swept, limit=None) for name, swept in SWEPT.items()}
    for each in documents:
        each.job_id = sweep_job_id(each.swept.name, each.before["_id"], each.urls, runs[each.swept.name])
    progress = {name: _follow(run, deadline) for name, run in runs.items()}
    for each in documents:
        each.after = database[each.swept.name].find_one({"_id": each.before["_id"]}) or {}
    return progress


def _follow(run: str, deadline: float) -> Progress:
    progress = Progress()
    for progress in sweeping.follow(run):  # noqa: B007 - the last one counts
        if time.monotonic() > deadline:
            break
    return progress
