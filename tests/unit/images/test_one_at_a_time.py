"""A process renders one image at a time: two would take the memory of two, and push each other out of the caches."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from pipeline.errors import PermanentError
from pipeline.images import sandbox
from pipeline.recipe import Recipe, parse_rendition
from tests.support.waiting import wait_for


def picture(image_format: str) -> bytes:
    out = BytesIO()
    Image.new("RGB", (20, 20), "teal").save(out, image_format)
    return out.getvalue()


def rendered(source: bytes) -> list[str]:
    recipe = Recipe((parse_rendition("8x8"),))
    return list(sandbox.render(source, recipe, max_pixels=10**6, max_decoded_pixels=10**6))


class Turns:
    """A lock in the place of the process's, that says who asked for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked = 0

    def acquire(self, **options: Any) -> bool:
        self.asked += 1
        return self.lock.acquire(**options)

    def release(self) -> None:
        self.lock.release()


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_an_image_waits_for_the_one_before_it(monkeypatch: pytest.MonkeyPatch, image_format: str) -> None:
    # Given an image that a thread is rendering
    turns = Turns()
    monkeypatch.setattr(sandbox, "_ONE_AT_A_TIME", turns)
    turns.lock.acquire()
    begun: list[object] = []
    for module, function in ((sandbox.images, "render"), (sandbox.subprocess, "run")):
        real = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *a, real=real, **k: begun.append(real) or real(*a, **k))
    with ThreadPoolExecutor() as pool:
        # When another thread has one to render, itself or in a child process
        second = pool.submit(rendered, picture(image_format))
        wait_for(lambda: turns.asked or second.done())
        # Then it begins when the first has ended, and not before.
        assert not begun
        turns.release()
        assert second.result(30) == ["8x8"]
    assert begun


def test_a_broken_image_keeps_nobody_waiting() -> None:
    # Given an image that could not be rendered
    with pytest.raises(PermanentError):
        rendered(b"\xff\xd8\xff no JPEG")
    # When another thread has one, then it is rendered.
    with ThreadPoolExecutor() as pool:
        assert pool.submit(rendered, picture("PNG")).result(30) == ["8x8"]
