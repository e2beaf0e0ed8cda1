"""Downloads of fetch: a hasty first attempt, and patient ones after it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

import pipeline.actors  # noqa: F401 - builds the broker, on which the actors are declared
from actors import fetch as module
from pipeline.clients import lazy
from pipeline.job import Known, Validators
from pipeline.metrics import PREFIX, REGISTRY
from pipeline.net.bulkhead import Bulkhead, Speed
from pipeline.net.download import Download
from pipeline.worker import downloads
from tests.support.attempts import attempt_at
from tests.support.jobs import CONTENT, COVER, accepted

pytestmark = pytest.mark.usefixtures("local_staging")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, Speed]]:
    """Whether each download was hasty, and the speed that its host was taken for."""
    found: list[tuple[bool, Speed]] = []
    bulkhead = Bulkhead()
    limiter = downloads.host_limiter.__wrapped__()
    limiter._bulkhead = bulkhead

    def download(url: str, slot: Callable[[str], Any], *, hasty: bool, **_: object) -> Download:
        with slot(url):
            found.append((hasty, next(speed for speed in Speed if bulkhead.taken(speed))))
        out = io.BytesIO()
        Image.new("RGB", (8, 8)).save(out, "JPEG")
        return Download(out.getvalue())

    monkeypatch.setattr(downloads, "download_if_changed", download)
    monkeypatch.setattr(downloads, "host_limiter", lambda: limiter)
    monkeypatch.setattr(module, "find_published", lambda *_: None)
    return found


def fetch(attempts: dict[str, int] | None = None) -> None:
    """Fetch the only source of a job, whose message has failed so often before."""
    job = accepted()
    assert module.fetch(attempt_at(job, failures=attempts or {}), job, job.sources[0]).due == "resize"


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [({}, (True, Speed.UNKNOWN)), ({"service": 3}, (True, Speed.UNKNOWN)), ({"source": 1}, (False, Speed.SLOW))],
    ids=["first attempt", "after trouble of our own", "after trouble of the host"],
)
def test_attempts_are_hasty_until_the_host_fails(
    asked: list[tuple[bool, Speed]], attempts: dict[str, int], expected: tuple[bool, Speed]
) -> None:
    fetch(attempts)
    assert asked == [expected]


def test_without_retries_the_only_attempt_is_patient(
    asked: list[tuple[bool, Speed]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FETCH_RETRY_DELAYS", ",")
    lazy.forget()
    fetch()
    assert asked == [(False, Speed.SLOW)]


def saved_bytes() -> float:
    return REGISTRY.get_sample_value(f"{PREFIX}_recheck_saved_bytes_total") or 0


@pytest.mark.parametrize(("image", "saved"), [(None, 1234), (b"other bytes", 0)])
def test_the_bytes_that_a_host_need_not_send_are_counted(
    monkeypatch: pytest.MonkeyPatch, image: bytes | None, saved: int
) -> None:
    # Given a source that is known, and a host that confirms it, or sends other bytes
    job = accepted()
    monkeypatch.setattr(downloads, "download_if_changed", lambda *_, **__: Download(image))
    before = saved_bytes()
    # When it is asked
    with downloads.downloading(
        attempt_at(job), job.sources[0], Known(CONTENT, 1234, Validators(COVER, '"1"'))
    ) as found:
        assert found.image == image
    # Then the size of its bytes is counted if they were not sent.
    assert saved_bytes() - before == saved
