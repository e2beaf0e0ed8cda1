"""Live updates get only the parts of a page that changed."""

from __future__ import annotations

import re

from tests.support.dashboard import Site, serving

PART = re.compile(r'id="([^"]+)" data-live data-version="([0-9a-f]+)"')


def versions(html: str) -> str:
    return " ".join("=".join(pair) for pair in PART.findall(html))


def test_a_live_update_has_only_what_changed(environment: dict[str, str]) -> None:
    with serving() as site:
        whole = site.get("/").text
        parts = dict(PART.findall(whole))
        assert {"banners", "flow", "latest-jobs", "brief-causes"} <= parts.keys()
        # When a page has the latest version of each part, then it gets nothing
        answer = settled(site)
        assert (answer.status_code, answer.content) == (204, b"")
        # and when one part is old, then it gets this part alone
        known = versions(site.get("/").text).replace(parts["flow"], "0")
        answer = site.get("/", X_Live=known)
        assert [name for name, _ in PART.findall(answer.text)] == ["flow"]
        assert "<html" not in answer.text


def settled(site: Site):  # type: ignore[no-untyped-def]
    """Return the update of a page that has just been loaded; its sources may be read in between."""
    for _ in range(20):
        answer = site.get("/", X_Live=versions(site.get("/").text))
        if answer.status_code == 204:
            break
    return answer


def test_pages_are_compressed(environment: dict[str, str]) -> None:
    with serving() as site:
        for path in ("/login", "/jobs/none", "/static/dashboard.css", "/sweeps"):
            assert site.get(path).headers.get("content-encoding", "none") == ("none" if path == "/login" else "gzip")


def test_a_refused_form_is_answered_whole_also_to_a_live_update(environment: dict[str, str]) -> None:
    with serving() as site:
        answer = site.post("/submit", {"url": "nonsense"}, X_Live="flow=0")
        assert answer.status_code == 422
        assert "<html" in answer.text
