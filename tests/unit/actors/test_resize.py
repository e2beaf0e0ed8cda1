"""The resize stage, on a staging folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import pipeline.actors  # noqa: F401 - builds the broker, on which the actors are declared
from actors.resize import resize
from pipeline.errors import StagedMissing
from pipeline.images.content_id import content_id
from pipeline.job import Content, Job, Source
from pipeline.recipe import Recipe, parse_rendition
from pipeline.storage.staging import staging
from tests.support.pictures import corners, encoded
from tests.support.untrusted_servers import settings

RECIPE = Recipe((parse_rendition("8x8"),))


FETCHED = encoded(corners(64, 64), "JPEG")


def staged(image: bytes) -> tuple[Job, Source]:
    """Stage bytes for a source of which fetch has seen `FETCHED`."""
    told = Content(content_id(FETCHED, RECIPE), ".jpeg", RECIPE)
    source = Source("http://a.example/", ("image_url",)).fetched(staging().put(image), told)
    return Job("job-1", "SHOW", (source,), ticket="t"), source


@pytest.fixture(autouse=True)
def staging_folder(no_variables: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings(monkeypatch, STAGING_URL=f"file://{tmp_path}/staging/")


@pytest.mark.parametrize(
    "image",
    [b"", FETCHED[:-300], FETCHED[:-300] + bytes(300), encoded(corners(16, 16), "JPEG")],
    ids=["empty", "cut short", "zeros at its end", "another image"],
)
def test_bytes_that_fetch_has_not_staged_count_as_missing(image: bytes) -> None:
    # Given a file that a crash of the host has damaged, when it is to be rendered
    with pytest.raises(StagedMissing) as caught:
        resize(*staged(image))
    # Then its source starts again at fetch
    assert caught.value.code == "staged_missing"


def test_the_bytes_that_fetch_has_staged_are_rendered() -> None:
    job, source = staged(FETCHED)
    after = resize(job, source)
    assert after.content == source.content
    assert after.rendered.split(staging().get(after.rendered.key)).keys() == {"8x8"}


def test_the_key_of_renditions_follows_from_the_staged_bytes() -> None:
    # Given a source that has restarted at fetch, and whose id still differs: another version has fetched it
    job, source = staged(encoded(corners(16, 16), "JPEG"))
    source = replace(source, restarted=True)
    # When it is rendered, then the content id is that of the bytes.
    after = resize(job, source)
    assert after.content == replace(source.known_content, id=content_id(staging().get(source.original), RECIPE))
    assert after.rendered.split(staging().get(after.rendered.key)).keys() == {"8x8"}
