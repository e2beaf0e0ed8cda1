"""Documents that a sweep processes during a run, and their expected outcome."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from pymongo.database import Database

from tests.chaos.orders import RENDITIONS, covers
from tests.chaos.world import World

#: Documents per hundred orders of a run, and documents per cover.
SHARE, SHARING = 20, 5

#: Maximum number of the sweep's jobs under way. It is small, so the sweep lasts long.
BACKLOG = 4


class Documents:
    """The episodes of a database. Every tenth cover is missing."""

    def __init__(self, database: Database[dict[str, Any]], world: World, rng: random.Random, orders: int) -> None:
        self._database = database
        self._urls: dict[int, str] = {}
        self._missing: set[str] = set()
        for n in range(max(SHARING, orders * SHARE // 100)):
            cover = n // SHARING
            path = f"/swept/{cover}.jpg"
            self._urls[n] = world.source(path)
            if cover % 10 == 9 or (cover == 0 and orders < 1000):
                self._missing.add(self._urls[n])
            else:
                world.files[path] = rng.choice(covers("JPEG")) + bytes(cover)
        database.channels.insert_many([{"_id": n, "title": f"Swept {n}"} for n in set(self._channels())])
        database.episodes.insert_many(
            [
                {"_id": n, "title": f"Episode {n}", "itunes_image": url, "channel_id": n // SHARING, "kept": n}
                for n, url in self._urls.items()
            ]
        )

    def _channels(self) -> Iterator[int]:
        return (n // SHARING for n in self._urls)

    @property
    def letters(self) -> int:
        """The number of dead letters expected for the missing covers."""
        return len(self._missing)

    def problems(self) -> list[str]:
        """Describe all documents with an unexpected outcome."""
        found = {each["_id"]: each for each in self._database.episodes.find()}
        return [f"document {n}: {wrong}" for n, url in self._urls.items() if (wrong := self._wrong(found[n], url))]

    def _wrong(self, document: dict[str, Any], url: str) -> str:
        if "lock" in document:
            return f"is still claimed: {document['lock']}"
        if (document["kept"], document["itunes_image"]) != (document["_id"], url):
            return "lost what was the customer's"
        metadata, images = document.get("metadata", {}), document.get("itunes_image_extra_images")
        if url in self._missing:
            good = metadata.get("image_is_valid") is False and metadata["error_detail"]["code"] == "http_404"
            return "" if good and not images else f"its cover is missing, and it has {metadata} and {images}"
        good = metadata == {"image_is_valid": True} and document.get("last_itunes_image") == url
        return "" if good and set(images or ()) == set(RENDITIONS) else f"has {metadata} and {images}"
