"""Images that take much memory to decode are decoded one at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from io import BytesIO

import pytest
from PIL import Image

from pipeline import openers
from pipeline.confined import render
from pipeline.images import Recipe
from pipeline.renditions import parse_rendition


def picture(image_format: str, side: int) -> bytes:
    out = BytesIO()
    Image.new("RGB", (side, side), "teal").save(out, image_format)
    return out.getvalue()


def rendered(source: bytes) -> list[str]:
    recipe = Recipe((parse_rendition("8x8"),))
    return list(render(source, recipe, max_pixels=10**6, max_decoded_pixels=10**6))


@pytest.mark.parametrize(("image_format", "side"), [("PNG", 200), ("JPEG", 900), ("TIFF", 20)])
def test_a_large_image_waits_for_another_and_a_small_one_does_not(
    monkeypatch: pytest.MonkeyPatch, image_format: str, side: int
) -> None:
    # Given a large image in the hands of another thread
    monkeypatch.setattr(openers, "LARGE", 10_000)
    with ThreadPoolExecutor() as pool:
        with openers.ONE_LARGE:
            # When a small image comes, and one that is large, or of a format that may turn out to be
            assert pool.submit(rendered, picture("PNG", 20)).result(timeout=30) == ["8x8"]
            large = pool.submit(rendered, picture(image_format, side))
            # Then the small one is rendered at once, and the other when the first has ended.
            with pytest.raises(NotYet):
                large.result(timeout=0.5)
        assert large.result(timeout=30) == ["8x8"]
