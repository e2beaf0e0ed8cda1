"""A process renders one image at a time: two would take twice the memory and evict each other from the CPU caches."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest
from dramatiq.middleware import TimeLimitExceeded
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


class CountingLock:
    """Replaces the process's lock, and counts the attempts to acquire it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.asked = 0

    def acquire(self, **options: Any) -> bool:
        self.asked += 1
        return self.lock.acquire(**options)

    def release(self) -> None:
        self.lock.release()


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_an_image_waits_for_the_previous_one(monkeypatch: pytest.MonkeyPatch, image_format: str) -> None:
    # Given an image that a thread is rendering
    process_lock = CountingLock()
    monkeypatch.setattr(sandbox, "_ONE_AT_A_TIME", process_lock)
    process_lock.lock.acquire()
    begun: list[object] = []
    real = sandbox._Sandbox.render
    monkeypatch.setattr(sandbox._Sandbox, "render", lambda *a: begun.append(a) or real(*a))
    with ThreadPoolExecutor() as pool:
        # When another thread renders one
        second = pool.submit(rendered, picture(image_format))
        wait_for(lambda: process_lock.asked or second.done())
        # Then it begins when the first has ended, and not before.
        assert not begun
        process_lock.release()
        assert second.result(30) == ["8x8"]
    assert begun


def test_a_broken_image_does_not_block_others() -> None:
    # Given an image that could not be rendered
    with pytest.raises(PermanentError):
        rendered(b"\xff\xd8\xff no JPEG")
    # When another thread has an image, then it is rendered.
    with ThreadPoolExecutor() as pool:
        assert pool.submit(rendered, picture("PNG")).result(30) == ["8x8"]


def test_a_time_limit_right_after_the_wait_does_not_keep_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a time limit that strikes when the lock was just acquired
    class Striking(CountingLock):
        def acquire(self, **options: Any) -> bool:
            super().acquire(**options)
            raise TimeLimitExceeded

    struck = Striking()
    monkeypatch.setattr(sandbox, "_ONE_AT_A_TIME", struck)
    with pytest.raises(TimeLimitExceeded):
        rendered(picture("PNG"))
    # Then another thread gets it.
    with ThreadPoolExecutor() as pool:
        assert pool.submit(struck.lock.acquire, timeout=5).result(30)
