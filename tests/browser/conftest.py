"""The service as `image-pipeline local` runs it, a web server for covers, and Chromium."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from pipeline.local.demo.samples import make
from pipeline.local.supervisor import Child, command_line
from pipeline.settings import Settings
from tests.acceptance.conftest import World, world
from tests.conftest import BROWSER
from tests.integration.conftest import database, environment, stack
from tests.support.waiting import wait_for

__all__ = ["database", "environment", "stack", "world"]

DOCS = Path(__file__).parents[2] / "docs"

#: Colour schemes. Tests that try both leave the last one set.
SCHEMES: tuple[Literal["dark", "light"], ...] = ("dark", "light")

#: Heights of the windows of a phone and of a desktop by their widths, in pixels.
WINDOWS = {390: 844, 1440: 1240}

#: Options of axe-core by colour scheme: it checks colours in both, and everything else in the light one only.
AXE = {"dark": {"runOnly": ["color-contrast"]}, "light": None}

#: The screenshots in the documents.
KEPT = {"overview-1440-light", "overview-390-dark", "job-1440-dark", "failures-390-light"}

#: Chromium only shows pages. It contacts no servers of its own, and our own pages need no sandbox.
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Local:
    """The running service: its output, and the address of its dashboard."""

    lines: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    @property
    def dashboard(self) -> str:
        """The printed address without the trailing slash; empty until it is printed."""
        match = re.search(r"^  Dashboard +(http://127\.0\.0\.1:\d+)/$", self.log, flags=re.MULTILINE)
        return match[1] if match else ""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """`image-pipeline local` with its dashboard, as `make run` starts it. Retries follow within seconds."""
    ours = {name.upper() for name in [*Settings.model_fields, "environment"]}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    settings = {"ALLOWED_NETWORKS": "127.0.0.0/8", "FETCH_RETRY_DELAYS": "1,1", "POSTBACK_RETRY_DELAYS": "1,1"}
    command = command_line(
        sys.executable, "-m", "pipeline", "local", "--data-dir", tmp_path_factory.mktemp("local"), "-c", "scheduler=0"
    )
    child = Child(command, environ=kept | settings, cwd=DOCS.parent, output=subprocess.PIPE)
    local = Local()

    def read() -> None:
        for line in child.output or ():
            local.lines.append(line.rstrip("\n"))

    threading.Thread(target=read, daemon=True).start()
    try:
        wait_for(lambda: local.log.count("Worker process is ready") >= 5, timeout=120)
        wait_for(lambda: "The dashboard: http" in local.log, timeout=60)
        yield local
    finally:
        child.kill()  # its processes end with it, and none has coverage to write
        child.wait()


@pytest.fixture(scope="session")
def covers(world: World) -> dict[str, str]:
    """Serve the demo's covers; returns their URLs by file name."""
    return {sample.file: world.serve(f"/covers/{sample.file}", sample.data) for sample in make().values()}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=SWITCHES)
        yield browser
        browser.close()


def looks(page: Page) -> Iterator[tuple[int, Literal["dark", "light"]]]:
    """Give a page each width and colour scheme in turn; it keeps its own width, and the last scheme."""
    own = page.viewport_size
    for width, height in WINDOWS.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            yield width, scheme
    page.set_viewport_size(own)  # type: ignore[arg-type]


def check_layout(page: Page) -> None:
    """Assert that a page fits the window, has readable text, and has named controls, in each of its looks."""
    for width, scheme in looks(page):
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"the page is wider than {width}"
        found = Axe().run(page, options=AXE[scheme]).response["violations"]
        assert [(width, scheme, each["id"], each["nodes"][0]["html"]) for each in found] == []


@pytest.fixture
def shot(request: pytest.FixtureRequest, page: Page, tmp_path: Path) -> Callable[[str], None]:
    """With --screenshots, takes pictures of the page: for the documents, or else into a temporary folder."""

    def take(name: str) -> None:
        page.mouse.move(0, 0)
        raw = tmp_path / "raw.png"
        for width, scheme in looks(page):
            page.screenshot(path=raw, animations="disabled")
            small = Image.open(raw).convert("RGB").quantize(192, dither=Image.Dither.NONE)
            look = f"{name}-{width}-{scheme}"
            small.save((DOCS if look in KEPT else tmp_path) / f"dashboard-{look}.png", optimize=True)

    return take if request.config.getoption("--screenshots") else lambda name: None
