"""AWS's list prices, and the cost of an image at these prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Price:
    """A price in US dollars."""

    what: str
    per: str
    dollars: float
    source: str


REGION, DATE = "us-east-2", "November 2026"

#: On-demand list prices of that region, beyond free tiers and below volume discounts.
PRICES = {
    "sqs": Price("SQS request, standard queue, 64 KiB", "million", 0.40, "https://aws.amazon.com/sqs/pricing/"),
    "put": Price("S3 request: PUT, COPY, POST, LIST", "thousand", 0.005, "https://aws.amazon.com/s3/pricing/"),
    "get": Price("S3 request: GET, HEAD and others", "thousand", 0.0004, "https://aws.amazon.com/s3/pricing/"),
    "free": Price("S3 request: DELETE", "thousand", 0.0, "https://aws.amazon.com/s3/pricing/"),
    "cpu": Price("Fargate, Linux on x86", "vCPU and hour", 0.04048, "https://aws.amazon.com/fargate/pricing/"),
}

#: The number of requests that a price is for.
PER = {"million": 1_000_000, "thousand": 1000}

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
    cost = {key: count * PRICES[key].dollars / PER[PRICES[key].per] for key, count in by_class(requests).items()}
    hours = cpu_ms / 1000 / 3600
    return {
        "sqs": 1e6 * cost["sqs"],
        "s3": 1e6 * (cost["put"] + cost["get"]),
        "cpu": 1e6 * hours * PRICES["cpu"].dollars,
    }
