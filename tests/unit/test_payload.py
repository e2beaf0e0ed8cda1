"""The rules for messages (contract, sections 1 and 3)."""

from __future__ import annotations

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Rejected
from pipeline.payload import folder_name, parse_json, to_json, validated
from pipeline.settings import get_settings

COVER = "https://feeds.example/cover.jpg"


@pytest.mark.parametrize(
    ("bucket_name", "folder"),
    [
        ("Mundo Cristão Podcasts", "MUNDO_CRISTAO_PODCASTS"),
        (" a/b ?c&d ", "A--B_-C-D"),
        ("北京", "BEIJING"),
        (None, "custom"),
        ("", "custom"),
        ("   ", "custom"),
        (".", "-"),
        ("..", "-"),
        ("...", "..."),
        ("straße", "STRASSE"),
        ("../../etc", "..--..--ETC"),
        ("a\tb\nc", "A-B-C"),
        ("x" * 200, "X" * 128),
        ("already_OK-1.2", "ALREADY_OK-1.2"),
    ],
)
def test_folder_is_made_from_the_bucket_name_by_the_contracts_rules(bucket_name: str | None, folder: str) -> None:
    assert folder_name(bucket_name) == folder


@given(st.text())
def test_any_folder_is_safe_in_a_key(bucket_name: str) -> None:
    folder = folder_name(bucket_name)
    assert folder == "custom" or set(folder) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    assert 1 <= len(folder) <= 128
    assert folder not in {".", ".."}


def test_the_message_of_a_rejection_contains_nothing_that_was_sent() -> None:
    with pytest.raises(Rejected) as caught:
        validated(
            {"image_url": COVER, "postback_url": "ftp://user:hunter2@receiver.example/?token=s3cr3t"}, get_settings()
        )
    assert "hunter2" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "-Infinity", "1e999", '{"a":}', "", "[" * 100_000])
def test_json_that_receivers_could_not_read_is_refused(text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse_json(text)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([], "a list"),
        ("text", "a string"),
        (True, "a boolean"),
        (None, "null"),
        (7, "a number"),
        (7.5, "a number"),
        ((), "a tuple"),
    ],
)
def test_other_json_than_objects_is_named(value: object, kind: str) -> None:
    with pytest.raises(Rejected, match=f"The message is {kind}, not a JSON object"):
        validated(value, get_settings())


def test_json_is_compact_with_the_escapes_that_sqs_requires() -> None:
    value = {"ü": [1, None], "id": ObjectId("5f43a1e2c9d4f7a1b2c3d4e5"), "c": "~\x7f\ud800\uffff\ufffd"}
    text = '{"ü":[1,null],"id":"5f43a1e2c9d4f7a1b2c3d4e5","c":"~\\u007f\\ud800\\uffff\ufffd"}'
    assert to_json(value) == text
    with pytest.raises(TypeError):
        to_json({"x": object()})
