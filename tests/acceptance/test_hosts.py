"""The host limiter in the running fetch stage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.local.embedded import EmbeddedStack
from tests.acceptance.conftest import STAGES_ALONE, World, procfile_with, running_service
from tests.acceptance.test_service import picture, unique, wait_for_post
from tests.support.untrusted_servers import Remote, Request, answer, remote
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unmeasured


class Gauge:
    """A host that answers only once its gate is open, and counts concurrent requests.

    The first request of a path that ends in `late` fails.
    """

    def __init__(self) -> None:
        self.now = self.most = 0
        self.open = threading.Event()
        self.cover = picture("JPEG", (64, 64))
        self.failed: set[str] = set()
        self._lock = threading.Lock()

    def behave(self, server: Remote, request: Request) -> Iterator[bytes]:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        assert self.open.wait(60)
        with self._lock:
            self.now -= 1
        if request.path.endswith("late") and request.path not in self.failed:
            self.failed.add(request.path)
            yield answer(503)
        else:
            yield answer(200, self.cover)


def test_a_slow_host_occupies_four_threads_and_uses_up_no_attempt(
    acceptance_stack: EmbeddedStack, world: World, tmp_path: Path
) -> None:
    procfile = procfile_with(tmp_path, merged=["resize", "upload", "notify"])
    gauge, hook, other = Gauge(), unique("/hook"), unique("/other")
    # A first attempt has a quarter of both times, which is longer than this test takes.
    settings = {"FETCH_TIMEOUT": "600", "FETCH_TOTAL_TIMEOUT": "600", "FETCH_RETRY_DELAYS": "1"}
    with (
        remote(gauge.behave) as slow,
        running_service(acceptance_stack, procfile, STAGES_ALONE | {"ingest": 0}, **settings) as service,
    ):
        # Given many jobs for one slow host
        for n in range(24):
            path = f"/{n}/{'late' if n % 4 == 3 else 'cover'}"
            service.send({"image_url": slow.url(path), "postback_url": world.url(hook)})
        wait_for(lambda: gauge.now == 4)
        # When a job for another host arrives, then it is processed at once.
        cover = world.serve(unique(), picture("JPEG", (32, 32)))
        service.send({"image_url": cover, "postback_url": world.url(other)})
        wait_for_post(world, other)
        assert gauge.now == 4
        # When the other jobs were snoozed more often than they have attempts, and the host then answers, some with 503,
        wait_for(lambda: service.log.count("outcome=put_off") >= 60, timeout=90)
        assert not world.posted(hook)
        gauge.open.set()
        # then all succeed, using their one retry, and at most four requests ran at a time.
        wait_for_post(world, hook, count=24, timeout=90)
        assert all(post.body["image_url_info"] for post in world.posted(hook))
        assert gauge.most == 4
        assert (service.log.count("outcome=retry"), len(gauge.failed)) == (6, 6)
        assert "received often" not in service.log
