"""The cost of a cover, compared with docs/performance.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.ops import prices
from pipeline.settings import Settings

PERFORMANCE = (Path(__file__).parents[3] / "docs/performance.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["s3", "file"])
def test_the_requests_of_a_cover_are_those_that_were_measured(scheme: str) -> None:
    # given what was measured at saturation, with three renditions
    row = re.search(rf"\*\*this project, {scheme}://\*\* \|(.*)", PERFORMANCE)
    assert row
    _, _, sqs, put, get = (float(cell) for cell in row[1].split("|")[:5])
    # then a sweep's cover takes as many
    settings = Settings(STAGING_URL="s3://bucket/staging/" if scheme == "s3" else "file:///var/staging/")
    requests = prices.requests_of_cover(settings)
    assert (requests["put"], requests["get"]) == (put, get)
    assert requests["sqs"] == pytest.approx(sqs, abs=0.2)


def test_a_request_costs_its_list_price() -> None:
    assert prices.dollars({"put": 1000, "get": 1000, "sqs": 1_000_000}) == {"put": 0.005, "get": 0.0004, "sqs": 0.4}
