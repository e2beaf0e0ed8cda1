"""The demo's report on swept documents: it notices every difference, and shows only changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.local.demo import sweeps
from pipeline.local.demo.samples import Sample
from pipeline.local.demo.sweep_comparison import document_differences
from pipeline.local.demo.sweeps import DemoDocument

INFO = {"50x50": {"url": "http://s3/x_50x50.gif", "bucket_path": "images-resized/X/"}}
DETAIL = {"field": "itunes_image", "stage": "fetch", "code": "http_404", "message": "Gone.", "at": datetime.now(UTC)}

Break = Callable[[dict[str, Any]], object]


class AnySamples(dict[str, Sample]):
    """Samples without pictures, whose contents do not matter here."""

    def __missing__(self, file: str) -> Sample:
        return Sample(file, "", "", "GIF", b"", None)  # type: ignore[arg-type]


@pytest.fixture
def documents() -> list[DemoDocument]:
    """Return the demo's documents in their expected state after the sweeps."""
    documents = sweeps.make(AnySamples(), "http://covers/")
    for each in documents:
        each.after = copy.deepcopy(each.before)
    radio, kitchen, _, *episodes, salt, _ = documents
    after(radio, last_image_url="marginalia.jpg", last_itunes_image="pixel-tales.gif")
    radio.after |= {"image_url_extra_images": INFO, "itunes_image_extra_images": INFO}
    radio.after["metadata"]["image_is_valid"] = True
    after(kitchen, last_image_url="slow-coffee.webp", last_itunes_image="nowhere.jpg")
    kitchen.after |= {"image_url_extra_images": INFO}
    kitchen.after |= {"metadata": {"image_is_valid": True, "error_detail": dict(DETAIL)}}
    for each in episodes:
        after(each, last_itunes_image="paper-boats.png")
        each.after |= {"itunes_image_extra_images": INFO, "metadata": {"image_is_valid": True}}
    salt.after |= {"metadata": {"image_is_valid": False, "error_detail": dict(DETAIL)}}
    return documents


def after(document: DemoDocument, **files: str) -> None:
    document.after |= {name: f"http://covers/{file}" for name, file in files.items()}


def named(documents: list[DemoDocument], title: str) -> DemoDocument:
    return next(each for each in documents if each.title == title)


def test_expected_documents_have_no_differences(documents):
    assert [difference for each in documents for difference in document_differences(each)] == []


@pytest.mark.parametrize(
    ("title", "go_wrong", "message"),
    [
        ("Radio Alba", lambda after: after.pop("last_image_url"), "last_image_url"),
        ("Radio Alba", lambda after: after["metadata"].pop("language"), "metadata.language"),
        ("Radio Alba", lambda after: after.update(lock={"run": "x"}), "lock"),
        ("Radio Alba", lambda after: after["metadata"].update(error_detail=DETAIL), "metadata.error_detail"),
        ("Kitchen Table", lambda after: after["metadata"].pop("error_detail"), "metadata.error_detail"),
        ("Kitchen Table", lambda after: after["metadata"]["error_detail"].pop("at"), "metadata.error_detail"),
        ("Kitchen Table", lambda after: after.update(itunes_image_extra_images=INFO), "itunes_image_extra_images"),
        ("Salt", lambda after: after["metadata"].update(image_is_valid=True), "metadata.image_is_valid"),
        ("Salt", lambda after: after.update(last_itunes_image="http://covers/nowhere.jpg"), "last_itunes_image"),
        ("Old Maps", lambda after: after.update(metadata={"image_is_valid": True}), "metadata.image_is_valid"),
        ("Sea Monsters", lambda after: after.pop("lock"), "lock"),
        ("Sea Monsters", lambda after: after.clear(), "itunes_image"),
    ],
)
def test_an_error_in_a_document_is_named(documents, title: str, go_wrong: Break, message: str):
    document = named(documents, title)

    go_wrong(document.after)

    assert any(f"its {message} " in difference for difference in document_differences(document))
