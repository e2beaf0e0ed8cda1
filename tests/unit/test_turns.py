"""A process renders one image at a time: two would take the memory of two, and push each other out of the caches."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from io import BytesIO

import pytest
from PIL import Image

from pipeline import confined, images
from pipeline.errors import PermanentError
from pipeline.images import Recipe
from pipeline.renditions import parse_rendition


def picture(image_format: str) -> bytes:
    out = BytesIO()
    Image.new("RGB", (20, 20), "teal").save(out, image_format)
    return out.getvalue()


def rendered(source: bytes) -> list[str]:
    recipe = Recipe((parse_rendition("8x8"),))
    return list(confined.render(source, recipe, max_pixels=10**6, max_decoded_pixels=10**6))


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_an_image_waits_for_the_one_before_it(monkeypatch: pytest.MonkeyPatch, image_format: str) -> None:
    # Given an image that a thread is rendering
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> dict[str, bytes]:
        begun.set()
        assert go_on.wait(30)
        return {}

    with ThreadPoolExecutor() as pool:
        with monkeypatch.context() as patched:
            patched.setattr(images, "render", slow)
            first = pool.submit(rendered, picture("PNG"))
            assert begun.wait(30)
        # When another thread has one to render, itself or in a child process
        second = pool.submit(rendered, picture(image_format))
        # Then it waits until the first has ended.
        with pytest.raises(NotYet):
            second.result(timeout=0.5)
        go_on.set()
        assert (first.result(30), second.result(30)) == ([], ["8x8"])


def test_a_broken_image_keeps_nobody_waiting() -> None:
    # Given an image that could not be rendered
    with pytest.raises(PermanentError):
        rendered(b"\xff\xd8\xff no JPEG")
    # When another thread has one, then it is rendered.
    with ThreadPoolExecutor() as pool:
        assert pool.submit(rendered, picture("PNG")).result(30) == ["8x8"]
