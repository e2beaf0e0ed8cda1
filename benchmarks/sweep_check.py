"""The independent check of `bench-sweep`: compares MongoDB and S3 with the documents that were inserted.

It reads every document with one cursor and lists every key of the bucket. It shares no code with the service.
"""

from __future__ import annotations

import io
import random
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from PIL import Image
from sweep_world import BAD, FLAWS, World, bystander, colours, episode, flaw_of, folder_of

#: The service's default renditions.
SIZES = {"50x50": 50, "250X250": 250, "800x800": 800}

#: Tolerance for the colours of a rendition, of 255: JPEG is lossy.
OFF = 12


class Check:
    """Finds errors, and counts correct results.

    Args:
        episodes: number of inserted episodes, without one bystander per hundred of them.
        covers: number of covers.
        database: a client of the check's own.
        s3: a client of the check's own.
        base: the beginning of the objects' URLs, including the bucket.
    """

    def __init__(self, world: World, episodes: int, covers: int, *, database: Any, s3: Any, bucket: str, base: str):
        self._world = world
        self._episodes, self._covers = episodes, covers
        self._database, self._s3, self._bucket = database, s3, bucket
        self._base = base
        self.ended: Counter[str] = Counter()  #: documents by outcome
        self.keys: dict[int, dict[str, str]] = {}  #: of each good cover, by rendition
        self.looked_at = 0  #: objects whose pixels were checked

    def wrong(self, pictures: int) -> Iterator[str]:
        """Yield a sentence for each error; compares the pixels of `pictures` covers in S3."""
        seen = 0
        for found in self._database.episodes.find():
            seen += 1
            yield from (f"episode {found['_id']}: {what}" for what in self._of_episode(found))
        planted = self._episodes + bystanders(self._episodes)
        if seen != planted:
            yield f"{seen} episodes exist, not {planted}"
        yield from self._of_objects(pictures)
        yield from self._of_fetches()

    def _of_episode(self, found: dict[str, Any]) -> Iterator[str]:
        if isinstance(found["_id"], str):
            if found != bystander(int(found["_id"].split()[1]), self._covers, self._world):
                yield "it belongs to no sweep, but has changed"
            self.ended["left alone"] += 1
            return
        number, cover = found["_id"], found["_id"] % self._covers
        expected = episode(number, self._covers, self._world)
        metadata = expected.pop("metadata", None) or {}
        metadata.pop("error_detail", None)
        if expected.pop("lock", None) is not None and "lock" in found:
            yield "its old claim is still there"
        flaw = FLAWS.get(flaw_of(cover))
        if flaw is None:
            self.ended["done"] += 1
            expected |= {"last_itunes_image": expected["itunes_image"], "metadata": metadata | {"image_is_valid": True}}
            info = found.pop("itunes_image_extra_images", None)
            yield from self._of_info(cover, info)
        else:
            self.ended["failed" if flaw.given_up else "invalid"] += 1
            detail = found.get("metadata", {}).pop("error_detail", {})
            error = {name: detail.get(name) for name in ("field", "stage", "code")}
            if error != {"field": "itunes_image", "stage": flaw.stage, "code": flaw.code}:
                yield f"its error is {error}, not {flaw.code} of {flaw.stage}"
            if set(detail) != {"field", "stage", "code", "message", "at"} or not isinstance(detail["at"], datetime):
                yield f"its error has {sorted(detail)}"
            expected["metadata"] = metadata | ({"error": True} if flaw.given_up else {"image_is_valid": False})
        if found != expected:
            differ = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
            yield f"{sorted(differ)} are wrong: { ({name: found.get(name) for name in differ})!r:.200}"

    def _of_info(self, cover: int, info: Any) -> Iterator[str]:
        path = f"images-resized/{folder_of(cover)}/"
        if not isinstance(info, dict) or set(info) != set(SIZES):
            yield f"its images are {info!r:.100}"
            return
        keys: dict[str, str] = {}
        for name, each in info.items():
            found = re.fullmatch(
                rf"{re.escape(self._base)}/({re.escape(path)}([0-9a-f]{{32}})_{name}\.jpeg)", each["url"]
            )
            if not found or each != {"url": each["url"], "bucket_path": path}:
                yield f"its image {name} is {each}"
                return
            keys[name] = found[1]
        if self.keys.setdefault(cover, keys) != keys:
            yield "its images are not those of other episodes with the same cover"

    def _of_objects(self, pictures: int) -> Iterator[str]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix="images-resized/")
        there = {each["Key"] for page in pages for each in page.get("Contents", [])}
        named = {key for keys in self.keys.values() for key in keys.values()}
        good = sum(not flaw_of(cover) for cover in range(self._covers))
        if len(self.keys) != good:
            yield f"{len(self.keys)} covers are stored, not {good}"
        if there != named:
            yield f"{len(named - there)} objects are missing, and {len(there - named)} belong to no episode"
        chosen = sorted(self.keys)
        for cover in random.Random(1).sample(chosen, min(pictures, len(chosen))):  # noqa: S311 - no secret is drawn
            for name, key in self.keys[cover].items():
                self.looked_at += 1
                body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
                if not _shows(body, SIZES[name], cover):
                    yield f"{key} does not show cover {cover}"

    def _of_fetches(self) -> Iterator[str]:
        more = [cover for cover, count in self._world.fetched.items() if count > 1 and flaw_of(cover) != "down"]
        if more:
            yield f"{len(more)} covers were fetched more than once, for example cover {more[0]}"


def _shows(body: bytes, side: int, cover: int) -> bool:
    with Image.open(io.BytesIO(body)) as picture:
        if picture.size != (side, side) or picture.format != "JPEG":
            return False
        places = (side // 4, side // 2), (side * 3 // 4, side // 2)
        seen = [picture.convert("RGB").getpixel(place) for place in places]
    return all(
        abs(a - b) <= OFF
        for half, colour in zip(seen, colours(cover), strict=True)
        for a, b in zip(half, colour, strict=True)
    )


def bystanders(episodes: int) -> int:
    """Return the number of documents that no sweep may touch."""
    return max(BAD, episodes // 100)
