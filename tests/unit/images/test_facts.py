"""Facts of a source in results, in the metadata of objects, and in answers of the sandbox (contract, section 4)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pipeline.images import child_process, sandbox
from pipeline.images.details.facts import SourceFacts, is_wrong_type, parse_facts
from pipeline.images.render import render
from tests.support.measured import VECTORS
from tests.support.pictures import LIMITS, corners, encoded, recipe


@pytest.mark.parametrize(
    ("content_type", "name", "wrong"),
    [
        ("image/jpeg", "JPEG", False),
        ("IMAGE/JPG; charset=binary", "JPEG", False),
        ("", "JPEG", False),
        ("image/png", "JPEG", True),
        ("text/html", "PNG", True),
        ("application/octet-stream", "WEBP", True),
        ("image/vnd.microsoft.icon", "ICO", False),
    ],
)
def test_a_content_type_of_another_format_is_wrong(content_type: str, name: str, wrong: bool) -> None:
    assert is_wrong_type(content_type, name) is wrong


def test_facts_survive_the_metadata_of_an_object() -> None:
    facts = SourceFacts(3000, 3000, "jpeg", "#606055", VECTORS[32, 32, False], 9, "0" * 64, ("animated",))
    assert parse_facts(facts.to_json()) == facts
    assert facts.to_json().isascii()
    for other in ("", "{}", "null", facts.to_json().replace("#606055", "<script>"), facts.to_json() + "x"):
        assert parse_facts(other) is None


FACTS = SourceFacts(3000, 3000, "jpeg", "#606055", VECTORS[32, 32, False], 9, "0" * 64)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("jpeg", 512 * 1024, []),
        ("png", 512 * 1024 + 1, ["over_512_kb"]),
        ("webp", 9, ["not_jpeg_or_png"]),
        ("gif", 900_000, ["not_jpeg_or_png", "over_512_kb"]),
    ],
)
def test_warnings_about_format_and_bytes_need_no_rendering(name: str, size: int, expected: list[str]) -> None:
    # Given facts that an earlier release stored with its renditions, without these warnings
    stored = parse_facts(replace(FACTS, format=name, bytes=size).to_json())
    # Then a result of today has them
    assert stored
    assert stored.as_result(has_wrong_type=False)["warnings"] == expected


def test_warnings_are_in_the_order_of_the_contract() -> None:
    facts = replace(FACTS, format="gif", bytes=900_000, warnings=("not_square", "animated"))
    found = facts.as_result(has_wrong_type=True)["warnings"]
    assert found == ["not_square", "animated", "wrong_content_type", "not_jpeg_or_png", "over_512_kb"]


class TestSandbox:
    def test_it_returns_the_facts_with_the_renditions(self) -> None:
        source = encoded(corners(), "PNG")
        made, facts = sandbox.render_with_facts(source, recipe("50x50"), **LIMITS)
        assert made == render(source, recipe("50x50"), **LIMITS)
        assert (facts.width, facts.height, facts.bytes, facts.format) == (64, 64, len(source), "png")

    @pytest.mark.parametrize(
        "change",
        [{"color": "red"}, {"thumbhash": "<svg>"}, {"warnings": ["made_up"]}, {"width": 0}, {"format": "../jpeg"}],
    )
    def test_facts_of_another_form_are_not_believed(
        self, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a child that an image has taken over, and whose facts are forged
        exchange = child_process.ChildProcess.exchange

        def forged(*arguments: Any, **limits: Any) -> tuple[bytes, bytes]:
            head, body = exchange(*arguments, **limits)
            answer = json.loads(head)
            answer["facts"] |= change
            return json.dumps(answer).encode(), body

        monkeypatch.setattr(child_process.ChildProcess, "exchange", forged)
        # When the image is rendered, then it is refused like an image that crashed its decoder
        with pytest.raises(sandbox.PermanentError) as caught:
            sandbox.render_with_facts(encoded(corners(), "PNG"), recipe("50x50"), **LIMITS)
        assert caught.value.code == "broken_image"
