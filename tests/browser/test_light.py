"""A big job log in a real browser: live jobs beside a sweep, a stable order, and few bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.clients import lazy, mongo
from pipeline.events import Event, Outcome
from pipeline.job import Job, Source, Sweep
from pipeline.monitoring.job_log.schema import JOBS, entry_of, updates
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from pipeline.stages import Lane
from tests.support.dashboard import Site, serving

pytestmark = pytest.mark.unmeasured

#: Maximum number of bytes of the first page, and of a page that is left open for ten seconds while nothing changes.
FIRST, IDLE = 8_000, 20_000


@pytest.fixture
def site(database: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A dashboard with queues and with a job log of ten live jobs and of 1,000 snoozed jobs of a sweep."""
    monkeypatch.setenv("JOBS_MONGO_URL", get_settings().mongo_url.get_secret_value())  # type: ignore[union-attr]
    lazy.forget()
    for change in plan(get_settings()):
        change.apply()
    write([attempt(f"live-{number}", Outcome.DONE, 60 + number) for number in range(10)])
    snooze(1000)
    with serving() as site:
        yield site


def attempt(job_id: str, outcome: Outcome, ago: float, lane: Lane = Lane.LIVE) -> Event:
    sweep = Sweep("channels", "channels-manual-1", "group") if lane is Lane.BULK else None
    job = Job(job_id, "SHOW", (Source(f"https://example.org/{job_id}.png", ("image_url",)),), lane=lane, sweep=sweep)
    at = time.time() - (0 if lane is Lane.BULK else ago)
    code = "host_busy" if outcome is Outcome.SNOOZED else ""
    return Event(
        "fetch", job_id, outcome, at=at, arrived=time.time() - ago, job=job, code=code, wait=2.0 if code else 0
    )


def write(events: list[Event]) -> None:
    mongo.job_database()[JOBS].bulk_write(updates([entry_of(event) for event in events]), ordered=False)


def snooze(number: int) -> None:
    """Snooze jobs of a sweep that began after the live jobs, in an order that differs from that of their beginning."""
    write([attempt(f"sweep-{(7 * each) % 1000}", Outcome.SNOOZED, each / 100, Lane.BULK) for each in range(number)])


@dataclass
class Traffic:
    """The bytes that a page received, as sent over the wire."""

    sizes: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, page: Page) -> Traffic:
        traffic = cls()
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        session.on("Network.loadingFinished", lambda event: traffic.sizes.append(int(event["encodedDataLength"])))
        return traffic


def test_pages_and_their_updates_are_small(site: Site, browser: Browser) -> None:
    page = browser.new_page(base_url=site.url("").rstrip("/"))
    page.clock.install()
    page.goto("/")
    expect(page.locator(".job")).not_to_have_count(0, timeout=30_000)  # the dashboard has read its sources
    traffic = Traffic.of(page)
    for path in ("/", "/jobs", "/failures", "/workers", "/sweeps"):
        # When a page is loaded, then its HTML is small
        traffic.sizes.clear()
        page.goto(path)
        assert traffic.sizes[0] <= FIRST
        # and so are five updates, those of ten seconds
        page.wait_for_load_state("networkidle")
        traffic.sizes.clear()
        for _ in range(5):
            with page.expect_response(lambda response: "x-live" in response.request.headers):
                page.clock.run_for(2000)
        assert sum(traffic.sizes) <= IDLE
    page.close()
