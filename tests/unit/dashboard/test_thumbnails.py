"""The keys of renditions, from their URLs."""

from __future__ import annotations

import pytest

from pipeline.dashboard import thumbnails

CONTENT_ID = "c3f4bf4256853026cf94fa6df2b1c366"


pytestmark = pytest.mark.usefixtures("no_variables")


@pytest.mark.parametrize(
    "url",
    [
        f"https://s3.us-east-2.amazonaws.com/images-ch/images-resized/SHOW/{CONTENT_ID}_250X250.jpeg",
        f"https://cdn.example.org/images-resized/SHOW/{CONTENT_ID}_250X250.jpeg",
        f"https://cdn.example.org/covers/images-resized/SHOW/{CONTENT_ID}_250X250.jpeg?v=1",
    ],
)
def test_a_renditions_url_gives_its_key(url: str) -> None:
    assert thumbnails.key_of(url) == f"images-resized/SHOW/{CONTENT_ID}_250X250.jpeg"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://[",
        "https://cdn.example.org/",
        f"https://cdn.example.org/pipeline-staging/{CONTENT_ID}",
        f"https://cdn.example.org/other/SHOW/{CONTENT_ID}_250X250.jpeg",
        f"https://cdn.example.org/images-resized/{CONTENT_ID}_250X250.jpeg",
        f"https://cdn.example.org/images-resized/../pipeline-staging/{CONTENT_ID}_250X250.jpeg",
        f"https://cdn.example.org/images-resized/SHOW/../../{CONTENT_ID}_250X250.jpeg",
        f"https://cdn.example.org/images-resized/SHOW/{CONTENT_ID}_250X250.html",
        f"https://cdn.example.org/images-resized/SHOW/{CONTENT_ID}_250X250.jpeg%00.html",
        "https://cdn.example.org/images-resized/SHOW/secrets.json",
    ],
)
def test_other_urls_in_the_bucket_have_no_key(url: str) -> None:
    assert thumbnails.key_of(url) is None
