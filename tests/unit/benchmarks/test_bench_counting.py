"""How `make bench` counts requests and computes costs, which docs/performance.md relies on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks/end_to_end"))

import emulator
import prices

JSON = {b"x-amz-target": b"AmazonSQS.SendMessageBatch"}
FORM = {b"content-type": b"application/x-www-form-urlencoded; charset=utf-8"}


@pytest.mark.parametrize(
    ("line", "headers", "body", "kind", "price"),
    [
        ("POST /?", JSON, b"{}", "sqs SendMessageBatch", "sqs"),
        ("POST /0/queue?", FORM, b"Action=ReceiveMessage&Version=1", "sqs ReceiveMessage", "sqs"),
        ("GET /0/queue?Action=DeleteMessage", {}, b"", "sqs DeleteMessage", "sqs"),
        ("PUT /bucket/key?", {}, b"bytes", "s3 PutObject", "put"),
        ("GET /bucket/key?", {}, b"", "s3 GetObject", "get"),
        ("HEAD /bucket/key?", {}, b"", "s3 HeadObject", "get"),
        ("GET /bucket?list-type=2", {}, b"", "s3 ListObjects", "put"),
        ("POST /bucket?delete", {}, b"<Delete/>", "s3 DeleteObjects", "put"),
        ("DELETE /bucket/key?", {}, b"", "s3 DeleteObject", "free"),
    ],
)
def test_a_request_is_recognized_by_its_kind_from_any_client_library(
    line: str, headers: dict[bytes, bytes], body: bytes, kind: str, price: str
) -> None:
    # given a request as it arrives at the emulator
    method, target = line.split()
    path, _, query = target.partition("?")
    scope: dict[str, Any] = {"method": method, "path": path, "query_string": query.encode()}
    # then it has AWS's name and the price of its class
    assert emulator._kind(scope, headers, body) == kind
    assert prices.price_class(kind) == price


def test_a_million_images_cost_the_list_prices() -> None:
    # given three objects, one lookup of them, four messages, and 36 ms of CPU per image
    requests = {"s3 PutObject": 3.0, "s3 HeadObject": 1.0, "s3 DeleteObject": 2.0, "sqs SendMessage": 4.0}
    # when the cost of a million is computed
    cost = prices.dollars(requests, cpu_ms=36.0)
    # then deletes are free, and CPU is billed by the hour
    assert cost == pytest.approx({"s3": 15.0 + 0.4, "sqs": 1.6, "cpu": 10 * 0.04048})
