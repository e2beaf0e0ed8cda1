"""The cost of an image at AWS's list prices."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.ops import prices
from pipeline.ops.prices import PRICES

#: S3 requests outside the PUT class. A batch of deletes is a POST and counts as one, to be careful.
CLASSES = {"s3 GetObject": "get", "s3 HeadObject": "get", "s3 DeleteObject": "free"}


def price_class(kind: str) -> str:
    """Return the key in `PRICES` of a request by the emulator's name for it: `s3 PutObject`."""
    return "sqs" if kind.startswith("sqs ") else CLASSES.get(kind, "put")


def by_class(requests: Mapping[str, float]) -> dict[str, float]:
    """Group requests by the key of their price."""
    return {key: sum(n for kind, n in requests.items() if price_class(kind) == key) for key in PRICES if key != "cpu"}


def dollars(requests: Mapping[str, float], cpu_ms: float) -> dict[str, float]:
    """Return the cost of a million images: `sqs`, `s3` and `cpu`."""
    cost = prices.dollars(by_class(requests))
    hours = cpu_ms / 1000 / 3600
    return {
        "sqs": 1e6 * cost["sqs"],
        "s3": 1e6 * (cost["put"] + cost["get"]),
        "cpu": 1e6 * hours * PRICES["cpu"].dollars,
    }
