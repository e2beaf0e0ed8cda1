"""No file takes much more memory or time than its size suggests, in fetch or in resize."""

from __future__ import annotations

import pytest

from tests.corpus.amplify import costs
from tests.corpus.bombs import BOMBS

pytestmark = pytest.mark.unmeasured

#: Bombs that grew most before they were bounded. `make bombs` measures all at the size limit.
WORST = [
    "GIF: comment", "GIF: extensions", "PNG: transparency", "TIFF: tags of a BigTIFF", "AVIF: items", "AVIF: Exif",
    "AVIF: items without properties", "AVIF: tables of items", "AVIF: containers of properties", "AVIF: alpha",
    "AVIF: tracks",
]  # fmt: skip


def test_no_bomb_of_a_megabyte_is_amplified() -> None:
    # Given a file for each count in each container, when fetch reads it and resize renders it
    measured = list(costs(1_000_000))
    # Then each ends with renditions or a code, within its bounds
    assert [cost for cost in measured if not cost.is_acceptable] == []
    assert len(measured) == 2 * len(BOMBS)
    # And both ends occur
    assert {cost.result.detail for cost in measured} >= {"too_large", "broken_image", ""}


def test_no_bomb_of_the_largest_size_is_amplified() -> None:
    assert [cost for cost in costs(52_000_000, WORST) if not cost.is_acceptable] == []
