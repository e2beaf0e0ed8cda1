"""The dashboard in a real browser, on a phone and a desktop, in light and dark colours."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect
from pydantic import SecretStr

from pipeline.dashboard.auth import Access
from tests.acceptance.conftest import World
from tests.browser.conftest import WINDOWS, Local, check_layout
from tests.support.dashboard import serving

pytestmark = [pytest.mark.unmeasured, pytest.mark.timeout(300)]

#: Timeout for the service's work, in milliseconds.
TIMEOUT = 60_000


#: Tests whether the focused element has a visible focus.
SHOWS_FOCUS = """() => {
  const element = document.activeElement;
  return [undefined, "::after"].some((part) => {
    const style = getComputedStyle(element, part);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  });
}"""

#: Distance of the focused link from its list's heading, and how far the page is scrolled.
#: The parts above that heading follow the service: what needs you may come and go while a test runs.
PLACE = """() => {
  const top = (element) => element.getBoundingClientRect().top;
  return [top(window.before) - top(document.getElementById("latest")), scrollY];
}"""


@pytest.fixture
def context(browser: Browser, local: Local, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A visitor's context, with a desktop's window, or one of the test's width."""
    width = getattr(request, "param", 1440)
    context = browser.new_context(
        viewport={"width": width, "height": WINDOWS[width]}, base_url=local.dashboard, reduced_motion="reduce"
    )
    context.set_default_timeout(TIMEOUT)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, local: Local) -> Iterator[Page]:
    """A page that makes no external request and does not violate its own content security policy."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("request", lambda request: request.url.startswith(local.dashboard) or wrong.append(request.url))
    page.on("console", lambda message: message.type == "error" and wrong.append(f"{message.location}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    assert not [each for each in wrong if "/jobs/unknown" not in each]


def submit(page: Page, url: str, folder: str, postback_url: str = "") -> None:
    """Submit an image, using only the keyboard."""
    page.goto("/")
    page.get_by_label("Image URL").focus()
    page.keyboard.type(url)
    page.keyboard.press("Tab")  # the button
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # opens the rest of the form
    page.keyboard.press("Tab")
    page.keyboard.type(folder)
    page.keyboard.press("Tab")
    page.keyboard.type(postback_url)
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/*")


def step(page: Page, name: str) -> Locator:
    """Return a stage in the job's track."""
    return page.locator(".track li").filter(has_text=name)


def expect_loaded(picture: Locator) -> None:
    """Assert that an image is loaded and visible."""
    expect(picture).to_be_visible()
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("each => each.naturalWidth") > 0


@pytest.mark.parametrize("context", [390], indirect=True)  # controls that a phone can reach, a desktop can
def test_an_image_goes_through_and_a_failed_one_is_redriven(
    page: Page, world: World, covers: dict[str, str], shot: Callable[[str], None]
) -> None:
    folder = f"/{secrets.token_hex(4)}"  # an unchanged image in the same folder is not rendered again
    for file in ("high-ground.jpg", "slow-coffee.webp", "marginalia.jpg"):
        submit(page, covers[file], "What others sent")
    _goes_through(page, world, folder, shot)
    job = _fails(page, world, folder, shot)
    _is_redriven(page, world, folder, shot)
    # Then the redriven job has succeeded
    page.goto(job)
    expect(page.get_by_role("status").filter(has_text="done")).to_be_visible(timeout=TIMEOUT)
    expect_loaded(page.get_by_alt_text("later.png in 250X250"))
    expect(page.locator(".timeline")).to_contain_text("gave up")
    expect(page.locator(".timeline")).to_contain_text("redriven")
    # and the other pages fit and are readable
    others = ("/jobs?outcome=failed", "/jobs/unknown", "/sweeps/preview/channels", "/sweeps/marks/channels")
    for path in ("/jobs", "/failures", "/workers", "/sweeps", *others):
        page.goto(path)
        check_layout(page)


def _goes_through(page: Page, world: World, folder: str, shot: Callable[[str], None]) -> None:
    # Given an image with a slow host and a slow receiver
    cover, hook = f"{folder}/night-train.jpg", f"{folder}/hook"
    world.serve(cover, world.files["/covers/night-train.jpg"][1])
    with world.delaying(cover) as host_answers, world.delaying(hook) as receiver_answers:
        # When it is submitted on the page
        submit(page, world.url(cover), f"Stories{folder}", world.url(hook))
        # Then the page shows that it was sent,
        expect(page.get_by_role("heading", level=1)).to_contain_text("Sent")
        check_layout(page)
        shot("sent")
        # then in notify, with its renditions,
        host_answers()
        expect(page.get_by_role("heading", level=1)).to_contain_text("night-train.jpg", timeout=TIMEOUT)
        for stage in ("fetch", "resize", "upload"):
            expect(step(page, stage)).to_have_class("done", timeout=TIMEOUT)
        expect(step(page, "notify")).to_have_class("now")
        expect_loaded(page.get_by_alt_text("night-train.jpg in 250X250"))
        # and finally done
        receiver_answers()
        expect(step(page, "notify")).to_have_class("done", timeout=TIMEOUT)
        expect(page.get_by_role("status").filter(has_text="done")).to_be_visible()
    check_layout(page)
    shot("job")


def _fails(page: Page, world: World, folder: str, shot: Callable[[str], None]) -> str:
    # When a missing image is submitted
    submit(page, world.url(f"{folder}/later.png"), f"Stories{folder}")
    # Then its page shows that and why it failed
    expect(page.get_by_role("status").filter(has_text="failed")).to_be_visible(timeout=TIMEOUT)
    expect(page.locator(".sources")).to_contain_text("answered 404 Not Found")
    job = page.url
    # and the overview shows it, the previous job's thumbnail, and the cause
    page.get_by_role("link", name="Overview").click()
    row = page.get_by_role("listitem").filter(has=page.get_by_role("link", name=f"{folder}/night-train.jpg"))
    expect_loaded(row.get_by_role("presentation").first)
    expect(page.locator("#brief-causes")).to_contain_text("http_404", timeout=TIMEOUT)
    expect(page.locator("#flow li").filter(has_text="Fetch")).to_contain_text("1 dead", timeout=TIMEOUT)
    check_layout(page)
    shot("overview")
    return job


def _is_redriven(page: Page, world: World, folder: str, shot: Callable[[str], None]) -> None:
    # When a visitor opens the cause
    page.get_by_role("link", name="Details and redrive").click()
    cause = page.get_by_role("article", name=re.compile("fetch.*http_404"))
    cause.get_by_text("Dead letters", exact=True).click()
    expect(cause.get_by_role("link", name=f"{folder}/later.png")).to_be_visible(timeout=TIMEOUT)
    # and the source is repaired, and the cause is redriven by keyboard
    world.serve(f"{folder}/later.png", world.files["/covers/paper-boats.png"][1])
    cause.locator("summary", has_text="Redrive").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(cause.get_by_role("button", name="Yes, redrive 1")).to_be_focused()
    check_layout(page)
    shot("failures")
    page.keyboard.press("Enter")
    # Then the page reports the redrive, and the cause disappears
    expect(page.get_by_text("Redrove http_404 in fetch")).to_be_visible(timeout=TIMEOUT)
    expect(cause).to_have_count(0, timeout=TIMEOUT)
    check_layout(page)


def test_every_control_is_reached_by_keyboard_and_shows_its_focus(
    page: Page, world: World, covers: dict[str, str]
) -> None:
    submit(page, covers["pixel-tales.gif"], "Keys")
    expect(page.get_by_role("status").filter(has_text="done")).to_be_visible(timeout=TIMEOUT)
    page.goto("/")
    expect(page.locator(".job")).not_to_have_count(0, timeout=TIMEOUT)
    page.get_by_role("button", name="Live").click()  # stops refreshing
    page.reload()
    expected = page.locator("a:visible, button:visible, input:visible:not([type=hidden]), summary:visible").count()
    reached = set()
    for _ in range(expected):
        page.keyboard.press("Tab")
        assert page.evaluate(SHOWS_FOCUS), page.evaluate("document.activeElement.outerHTML.slice(0, 120)")
        reached.add(page.evaluate("document.activeElement.outerHTML"))
    assert len(reached) >= expected - 1  # two links may have the same HTML
    # and the first control skips to the content
    page.reload()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


@pytest.mark.usefixtures("covers")
def test_the_processes_are_shown_with_what_they_work_on(page: Page, world: World) -> None:
    cover = f"/{secrets.token_hex(4)}/slow.png"
    world.serve(cover, world.files["/covers/paper-boats.png"][1])
    with world.delaying(cover) as host_answers:
        submit(page, world.url(cover), "Workers")
        job = page.url.rpartition("/")[2]
        page.goto("/workers")
        row = page.locator(".processes > li").filter(has_text=re.compile(r"running\s+fetch\s"))
        expect(row).to_contain_text("1 of", timeout=TIMEOUT)
        row.locator("summary").click()
        expect(row.get_by_role("link", name=job[:8])).to_be_visible(timeout=TIMEOUT)
        check_layout(page)
        host_answers()
    for name in ("ingest", "resize", "upload", "notify", "sweep"):
        line = page.locator("summary").filter(has_text=re.compile(rf"running\s+{name}\s")).first
        expect(line).to_be_visible(timeout=TIMEOUT)
        assert line.bounding_box()["height"] < 50


def live_requests(page: Page) -> list[str]:
    requested: list[str] = []
    page.on("request", lambda request: "x-live" in request.headers and requested.append(request.url))
    return requested


def test_a_visible_page_refreshes_itself_and_a_hidden_one_does_not(page: Page) -> None:
    # Given a page whose clock the test moves
    page.clock.install()
    requested = live_requests(page)
    page.goto("/")

    def after(seconds: int) -> int:
        before = len(requested)
        for _ in range(seconds):
            page.clock.run_for(1000)
            page.evaluate("new Promise(requestAnimationFrame)")
            page.wait_for_load_state("networkidle")
        return len(requested) - before

    def update() -> None:
        with page.expect_response(lambda response: "x-live" in response.request.headers):
            page.clock.run_for(2000)

    # When it is visible, then it requests an update every two seconds,
    for _ in range(3):
        update()
    # none while it is hidden,
    hide = "Object.defineProperty(document, 'hidden', { get: () => %s, configurable: true });"
    page.evaluate(hide % "true" + "document.dispatchEvent(new Event('visibilitychange'))")
    assert after(10) == 0
    # and one at once when it is shown again
    page.evaluate(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
    assert after(1) == 1
    # When the visitor pauses it, then it stops, on other pages too
    page.get_by_role("button", name="Live").click()
    expect(page.get_by_role("button", name="Paused")).to_have_attribute("aria-pressed", "true")
    assert after(10) == 0
    page.goto("/failures")
    assert after(10) == 0
    page.get_by_role("button", name="Paused").click()
    update()


def test_a_refresh_keeps_focus_open_parts_and_typed_text(page: Page, world: World, covers: dict[str, str]) -> None:
    # Given a job that has ended, and a form that is half filled in
    submit(page, covers["pixel-tales.gif"], "Typed")
    expect(page.get_by_role("status").filter(has_text="done")).to_be_visible(timeout=TIMEOUT)
    page.clock.install()
    requested = live_requests(page)
    page.goto("/")
    expect(page.locator(".job")).not_to_have_count(0, timeout=TIMEOUT)
    page.get_by_text("Folder and postback").click()
    page.get_by_label("Folder", exact=False).first.fill("half a na")
    page.locator(".job a").first.evaluate("each => { each.tabIndex = 0; each.focus(); window.before = each }")
    place = page.evaluate(PLACE)
    # When the page is refreshed, then nothing of this changes
    for _ in range(5):
        page.clock.run_for(1000)
        page.wait_for_load_state("networkidle")
    assert requested
    assert page.evaluate("document.activeElement === window.before")
    assert page.evaluate(PLACE) == place
    expect(page.get_by_label("Folder", exact=False).first).to_have_value("half a na")
    expect(page.get_by_label("Postback URL")).to_be_visible()


def test_a_page_reports_a_dashboard_that_does_not_answer(context: BrowserContext, local: Local) -> None:
    page = context.new_page()
    page.clock.install()
    page.goto("/")
    page.route("**/*", lambda route: route.abort())
    notice = page.get_by_role("status").filter(has_text="The dashboard does not answer")

    def shown() -> bool:
        page.clock.run_for(3000)
        return notice.is_visible()

    assert any(shown() for _ in range(20))
    page.unroute("**/*")
    for _ in range(20):
        page.clock.run_for(10_000)
        if not notice.is_visible():
            break
    expect(notice).to_have_count(0)


def test_a_visitor_without_the_token_logs_in(browser: Browser, environment: dict[str, str]) -> None:
    # Given a dashboard that requires a token
    token = "a token of 24 characters"
    with serving(Access.for_host("127.0.0.1", SecretStr(token))) as site:
        context = browser.new_context(base_url=site.url("").rstrip("/"))
        page = context.new_page()
        # When a visitor opens a page, then the dashboard asks for the token and rejects a wrong one
        page.goto("/jobs")
        expect(page.get_by_label("Token")).to_be_focused()
        check_layout(page)
        page.keyboard.type("another token, as long")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This token is wrong.")
        check_layout(page)
        # and accepts the right one, and leads back to that page until the logout; scripts cannot read the cookie
        page.keyboard.type(token)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
        check_layout(page)
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        page.goto("/")
        expect(page.get_by_label("Token")).to_be_visible()
        context.close()
