"""The orders of a run and their expected outcomes, which are all that the checker knows."""

from __future__ import annotations

import io
import json
import random
import secrets
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from PIL import Image

from tests.chaos.world import World

RENDITIONS = {"50x50": (50, 50), "250X250": (250, 250), "400x400": (400, 400)}

#: Every secret of a run contains one of these forms, and no log line may contain any.
SECRET = "planted"
SECRET_FORMS = (SECRET, "cGxhbnRlZ", "BsYW50ZW", "wbGFudGVk")  # also in base64, at any offset


@dataclass(frozen=True)
class Failed:
    """An image that cannot be processed, with the error expected in its result."""

    stage: str
    code: str


@dataclass
class Order:
    """One message of a run."""

    n: int
    kind: str
    body: Any  #: a payload, or the text of an invalid message
    door: str = "queue"  #: raw on the input queue, by `fetch_image.send`, or straight on a stage's queue
    images: dict[str, str | Failed] = field(default_factory=dict)  #: published format, or error, by field
    posted: bool = True
    redirected: str = ""  #: name of the queue for the result
    letters: tuple[tuple[str, str], ...] = ()  #: dead letters: queue and error code
    path: str = ""  #: path of its postback
    id: str = ""  #: set once it is sent

    @property
    def marker(self) -> str:
        return f"<order {self.n:05d}>"


@cache
def covers(image_format: str) -> tuple[bytes, ...]:
    """Return some covers of a format."""
    made = []
    for shade in (40, 120, 200):
        image = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
        image.paste((shade, 255 - shade, 90), (40, 40, 300, 300))
        out = io.BytesIO()
        image.save(out, image_format)
        made.append(out.getvalue())
    return tuple(made)


@cache
def spoilt(what: str) -> bytes:
    """Return a recognisable source that stays in staging, because its job fails after fetch."""
    out = io.BytesIO()
    Image.effect_noise((500, 400), 60).convert("RGB").save(out, "JPEG")
    return out.getvalue() if what == "killer" else out.getvalue()[:-2000]


@cache
def giant() -> bytes:
    """Return a plain PNG that takes half a second to decode."""
    out = io.BytesIO()
    Image.new("L", (5000, 5000), 77).save(out, "PNG")
    return out.getvalue()


#: Kinds of orders per hundred, at least one of each; the rest are plain. There are fewer killers.
SHARES = {
    "two images": 4,
    "one of two missing": 2,
    "missing": 2,
    "no image": 1,
    "broken": 1,
    "source hangs once": 2,
    "source busy twice": 2,
    "out of memory twice": 2,
    "staged source gone": 2,
    "staged rendering gone": 2,
    "long payload": 1,
    "giant": 1,
    "shared cover": 10,
    "receiver sulks": 3,
    "receiver late once": 2,
    "receiver gone": 2,
    "redirected": 6,
    "redirected to FIFO": 4,
    "bad JSON": 1,
    "asks for no image": 1,
    "sent, asks for no image": 1,
    "garbage on a stage": 2,
}


def plan(jobs: int, world: World, queues: dict[str, str], rng: random.Random) -> list[Order]:
    """Plan the orders of a run, with killers early. `queues` are the queues for redirected results."""
    kinds = [kind for kind, share in SHARES.items() for _ in range(max(1, share * jobs // 100))]
    killers = 1 + jobs // 500
    kinds = (kinds + ["plain"] * jobs)[: jobs - killers]
    rng.shuffle(kinds)
    for _ in range(killers):
        kinds.insert(rng.randrange(max(1, len(kinds) // 4)), "kills its worker")
    return [order(n, kind, world, queues, rng) for n, kind in enumerate(kinds)]


def order(n: int, kind: str, world: World, queues: dict[str, str], rng: random.Random) -> Order:
    """Create an order of a kind."""
    this = Order(n, kind, {}, door=rng.choice(["queue", "queue", "send"]))
    behaviour = {"receiver sulks": "sulky", "receiver late once": "late", "receiver gone": "gone"}.get(kind, "hook")
    this.path = f"/{behaviour}/{n}"
    this.body = {"order": this.marker, "note": f"{SECRET}-body", "bucket_name": f"Folder {n}", "list": [1, None, "ü"]}
    this.body["postback_url"] = world.receiver(f"{this.path}?key={SECRET}-hook")
    _images(this, world, rng)
    if kind == "shared cover":
        this.body["bucket_name"] = "Shared"
    if kind == "long payload":
        this.body["long"] = secrets.token_hex(40_000)
    if kind.startswith("redirected"):
        this.redirected = queues["fifo" if "FIFO" in kind else "standard"]
        this.body["redirect_queue"] = this.redirected
        if rng.random() < 0.3:
            this.posted = bool(this.body.pop("postback_url") and False)
    if kind == "receiver gone":
        this.posted, this.letters = False, (("notify_dlq", "http_410"),)
    _bad(this, rng)
    return this


def _images(this: Order, world: World, rng: random.Random) -> None:
    if this.kind in {"two images", "one of two missing"}:
        _image(this, "itunes_image", world, rng)
    match this.kind:
        case "missing" | "one of two missing":
            this.body["image_url"] = world.source(f"/missing/{this.n}?token={SECRET}-query")
            this.images["image_url"], this.letters = Failed("fetch", "http_404"), (("fetch_dlq", "http_404"),)
        case "no image":
            _image(this, "image_url", world, rng, data=b"<html>no image</html>")
            this.images["image_url"], this.letters = Failed("fetch", "not_an_image"), (("fetch_dlq", "not_an_image"),)
        case "broken":
            _image(this, "image_url", world, rng, data=spoilt("broken"))
            this.images["image_url"], this.letters = Failed("resize", "broken_image"), (("resize_dlq", "broken_image"),)
        case "kills its worker":
            _image(this, "image_url", world, rng, data=spoilt("killer"))
            crashed = "worker_crashed"
            this.images["image_url"], this.letters = Failed("resize", crashed), (("resize_dlq", crashed),)
        case "giant":
            _image(this, "image_url", world, rng, data=giant())
            this.images["image_url"] = "PNG"
        case "shared cover":
            world.files["/shared"] = covers("JPEG")[0]
            this.body["image_url"], this.images["image_url"] = world.source("/shared"), "JPEG"
        case _:
            _image(this, "image_url", world, rng)


_BEHAVIOURS = {
    "source hangs once": "hangs",
    "source busy twice": "busy",
    "out of memory twice": "oom",
    "staged source gone": "robbed-source",
    "staged rendering gone": "robbed-rendering",
    "kills its worker": "kills",
}


def _image(this: Order, name: str, world: World, rng: random.Random, data: bytes = b"") -> None:
    image_format = rng.choice(["JPEG", "JPEG", "PNG", "WEBP", "GIF"])
    path = f"/{_BEHAVIOURS.get(this.kind, 'cover')}/{name}/{this.n}"
    world.files[path] = data or rng.choice(covers(image_format))
    this.body[name] = world.source(f"{path}?token={SECRET}-query", user=rng.choice(["", f"me:{SECRET}-password@"]))
    this.images[name] = image_format


def _bad(this: Order, rng: random.Random) -> None:
    """Make the order invalid: it becomes a dead letter without a result."""
    match this.kind:
        case "bad JSON":
            this.door, this.body = "queue", f'{{"order": "{this.marker}", "secret": "{SECRET}-json'
            refused = ("ingest_dlq", "not_json")
        case "asks for no image":
            this.door, this.body["image_url"] = "queue", "N/A"
            refused = ("ingest_dlq", "no_image")
        case "sent, asks for no image":
            this.door, this.body["image_url"] = "send", None
            refused = ("fetch_dlq", "no_image")
        case "garbage on a stage":
            this.door = rng.choice(["fetch", "resize", "upload", "notify"])
            wrong = {"queue_name": this.door, "actor_name": "nobody", "args": [f"{SECRET}-{this.marker}"], "kwargs": {}}
            wrong |= {"options": rng.choice([{}, None]), "message_id": "1", "message_timestamp": 1}
            this.body = rng.choice([json.dumps(wrong), f"{SECRET} garbage {this.marker}"])
            refused = (f"{this.door}_dlq", "bad_message")
        case _:
            return
    this.posted, this.images, this.letters = False, {}, (refused,)
