"""The upload stage, on a staging folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline.actors  # noqa: F401 - builds the broker, on which the actors are declared
from actors import upload as module
from pipeline.errors import StagedMissing
from pipeline.job import Content, Job, Rendered, Source
from pipeline.recipe import Recipe, parse_rendition
from pipeline.storage.staging import staging
from tests.support.untrusted_servers import settings

CONTENT = Content("0" * 32, ".jpeg", Recipe((parse_rendition("2x2"), parse_rendition("4x4"))))
RENDITIONS = {"2x2": b"small", "4x4": b"larger"}


@pytest.fixture
def published(no_variables: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[object, ...]]:
    """Stage in a folder, and return what is published."""
    settings(monkeypatch, STAGING_URL=f"file://{tmp_path}/staging/")
    found: list[tuple[object, ...]] = []
    monkeypatch.setattr(module, "publish", lambda *arguments: found.append(arguments))
    return found


def rendered(staged: bytes) -> tuple[Job, Source]:
    """Return a job with a source whose renditions are staged as these bytes."""
    blob = b"".join(RENDITIONS.values())
    source = Source("http://a.example/", ("image_url",)).fetched("", CONTENT)
    source = source.resized(Rendered.of(staging().put(staged), RENDITIONS, blob))
    return Job("job-1", "SHOW", (source,), ticket="t"), source


def test_each_rendition_is_published_in_the_folder_of_the_job(published: list[tuple[object, ...]]) -> None:
    job, source = rendered(b"smalllarger")
    after = module.upload(job, source)
    assert published == [("SHOW", CONTENT, RENDITIONS, None)]
    assert (after.due, after.content) == ("notify", CONTENT)


def test_bytes_that_resize_has_not_staged_are_not_published(published: list[tuple[object, ...]]) -> None:
    with pytest.raises(StagedMissing):
        module.upload(*rendered(b"smalllarges"))
    assert published == []
