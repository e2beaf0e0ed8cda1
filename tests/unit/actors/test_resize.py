"""The resize stage, on a staging folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.resize import resize
from pipeline.images.content_id import content_id
from pipeline.job import Content, Job, Source
from pipeline.recipe import Recipe, parse_rendition
from pipeline.storage.staging import staging
from tests.support.pictures import corners, encoded
from tests.support.untrusted_servers import settings

RECIPE = Recipe((parse_rendition("8x8"),))


def test_the_key_of_renditions_follows_from_the_staged_bytes(
    no_variables: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given a source whose staged bytes differ from the bytes that fetch saw
    settings(monkeypatch, STAGING_URL=f"file://{tmp_path}/staging/")
    seen, staged = encoded(corners(9, 9), "JPEG"), encoded(corners(16, 16), "JPEG")
    told = Content(content_id(seen, RECIPE), ".jpeg", RECIPE)
    source = Source("http://a.example/", ("image_url",)).fetched(staging().put(staged), told)
    # When they are rendered, then the content id is theirs.
    after = resize(Job("job-1", "SHOW", (source,), ticket="t"), source)
    assert after.content == replace(told, id=content_id(staged, RECIPE))
    assert after.rendered.split(staging().get(after.rendered.key)).keys() == {"8x8"}
