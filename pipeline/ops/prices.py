"""AWS's list prices, and the requests that a cover of a sweep takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.settings import Settings


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

#: Requests to SQS of a job among many, which share batches (docs/performance.md, at saturation).
SQS_REQUESTS = 2


def dollars(requests: Mapping[str, float]) -> dict[str, float]:
    """Return the cost of requests, by the key of their price."""
    return {key: count * PRICES[key].dollars / PER[PRICES[key].per] for key, count in requests.items()}


def requests_of_cover(settings: Settings) -> dict[str, int]:
    """Return the requests of a new cover among many, by the key of their price.

    Each rendition is a PUT, and one HEAD finds that they are missing. In S3, staging takes two PUTs and two GETs.
    """
    staged = 2 if settings.staging.startswith("s3:") else 0
    return {"put": len(settings.renditions) + staged, "get": 1 + staged, "sqs": SQS_REQUESTS}
