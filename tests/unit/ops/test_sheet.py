"""The contact sheet has room for any number and shape of renditions."""

from __future__ import annotations

import pytest
from PIL import Image

from pipeline.ops.sheet import CARD, GAP, MARGIN, Card, draw

RED = (255, 0, 0)


def card(*sizes: tuple[int, int]) -> Card:
    return Card(
        "Title", "caption", [(f"{width}x{height}", Image.new("RGB", (width, height), RED)) for width, height in sizes]
    )


@pytest.mark.parametrize(
    "sizes",
    [
        [(800, 800)],
        [(50, 50)],
        [(800, 800), (250, 250), (50, 50)],
        [(1200, 630), (1, 10_000), (10_000, 1)],
        [(side, side) for side in range(20, 400, 20)],
        [(60, 60)] * 12,
    ],
    ids=["one", "one-small", "default", "shapes", "many", "many-small"],
)
def test_renditions_stay_in_their_card(sizes):
    sheet = draw([card(*sizes)], "Heading", [])

    mask = Image.eval(sheet.getchannel("G"), lambda value: 255 * (value == 0))
    left, top, right, bottom = mask.getbbox()
    assert left >= MARGIN + CARD[0] + GAP
    assert right <= MARGIN + 2 * CARD[0] + GAP
    assert (top, bottom <= MARGIN + CARD[1]) == (MARGIN, True)
