"""Every message and result in the documents fits its schema, and each result makes a postback."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pipeline.net.notifications import SECRET_FIELD
from pipeline.ops.schema import document
from pipeline.payload import IMAGE_FIELDS
from tests.unit.test_docs import DOCUMENTS as PAGES
from tests.unit.test_docs import blocks


class Literal(ast.NodeTransformer):
    """Replaces calls such as `ObjectId()` by a string, so that the rest is a literal."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return ast.Constant(ast.unparse(node))


def objects_in(text: str) -> Iterator[Any]:
    """Yield every object in the code of a page: JSON, JSON in the quotes of a shell, and dicts of Python."""
    yield from map(json.loads, blocks("json", text))
    for block in blocks("sh", text):
        yield from map(json.loads, re.findall(r"'(\{.*?\})'", block))
    for block in blocks("python", text):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Dict):
                yield ast.literal_eval(ast.fix_missing_locations(Literal().visit(node)))


def kind_of(example: dict[str, Any]) -> str:
    return "result" if any(f"{name}_info" in example for name in IMAGE_FIELDS) else "message"


EXAMPLES = [
    pytest.param(kind_of(found), found, id=f"{page.name}, {kind_of(found)}")
    for page in PAGES
    for found in objects_in(page.read_text(encoding="utf-8"))
    if isinstance(found, dict) and found.keys() & {*IMAGE_FIELDS}
]


def test_there_are_examples_of_each_kind() -> None:
    assert {example.values[0] for example in EXAMPLES} == {"message", "result"}


@pytest.mark.parametrize(("kind", "example"), EXAMPLES)
def test_an_example_fits(kind: str, example: dict[str, Any]) -> None:
    assert errors_of(kind, example) == []


@pytest.mark.parametrize("result", [example.values[1] for example in EXAMPLES if example.values[0] == "result"])
def test_a_result_with_the_secret_is_a_postback(result: dict[str, Any]) -> None:
    assert errors_of("postback", result | {SECRET_FIELD: "secret"}) == []


def errors_of(kind: str, example: dict[str, Any]) -> list[str]:
    return [error.message for error in Draft202012Validator(document(kind)).iter_errors(example)]
