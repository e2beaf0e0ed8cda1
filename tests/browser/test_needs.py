"""The list of needs in a real browser, on a phone and a desktop."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, expect

from pipeline.clients import lazy
from pipeline.monitoring.processes import Heartbeat, Work
from pipeline.monitoring.retrying import Retrying
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from tests.browser.conftest import check_layout, looks
from tests.support.dashboard import Site, serving

pytestmark = pytest.mark.unmeasured

HOOK = "https://hooks.example.com/covers/in"


@pytest.fixture
def site(database: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A dashboard with queues and heartbeats, and nothing that needs an operator."""
    monkeypatch.setenv("JOBS_MONGO_URL", get_settings().mongo_url.get_secret_value())  # type: ignore[union-attr]
    lazy.forget()
    for change in plan(get_settings()):
        change.apply()
    for stage in ("fetch", "resize", "upload", "notify"):
        beat(stage, Work())
    with serving() as site:
        yield site


def beat(stage: str, work: Work) -> None:
    heartbeat = Heartbeat(stage, [stage], 16, lambda: work)
    heartbeat._id = f"{stage} {work.trouble}"
    heartbeat._beat()


def test_what_needs_an_operator_is_the_first_screen(site: Site, browser: Browser) -> None:
    page = browser.new_page(base_url=site.url("").rstrip("/"), reduced_motion="reduce")
    # Given a service that needs no one, then the page says so,
    page.goto("/")
    expect(page.get_by_role("heading", name="Nothing needs you")).to_be_in_viewport(timeout=30_000)
    check_layout(page)
    # and each healthy process has one line.
    page.goto("/workers")
    healthy = page.locator("summary").filter(has_text="running")
    expect(healthy).to_have_count(4)
    for _ in looks(page):
        assert all(line.bounding_box()["height"] < 50 for line in healthy.all())  # type: ignore[index]
    page.goto("/")
    # When S3 and a receiver fail, and a process stops
    now = datetime.now(UTC)
    since, soon = now - timedelta(minutes=12), now + timedelta(minutes=20)
    refused = Retrying("fetch", "s3_error", "AccessDenied", "", 120, 9, since, soon, now)
    down = Retrying("notify", "http_503", "", HOOK, 750, 37, since, soon, now)

    def beat_again() -> None:
        beat("fetch", Work(retrying=(refused,), trouble=("the file system of the staging folder has 93 MB left",)))
        beat("notify", Work(retrying=(down,)))

    beat_again()
    # Then each is a line of the first screen, and retried jobs can be tried now.
    lines = page.locator(".need")
    expect(lines).to_have_count(3, timeout=30_000)
    expect(lines.nth(0)).to_contain_text("120 × fetch, s3_error (AccessDenied)")  # noqa: RUF001
    expect(lines.nth(2)).to_contain_text(f"{HOOK} answers 503: 750 deliveries of 37 folders wait")
    for _ in looks(page):
        for number in range(3):
            expect(lines.nth(number)).to_be_in_viewport(ratio=1)
    for path in ("/workers", "/failures", "/"):
        page.goto(path)
        check_layout(page)
    beat_again()  # the looks may have taken longer than a process without a heartbeat is shown
    lines.nth(2).get_by_role("button", name="Try now").click()
    page.wait_for_url("**/")
    page.close()
