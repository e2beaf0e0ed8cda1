"""`schema`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.ops.schema import DOCUMENTS, text_of

pytestmark = pytest.mark.usefixtures("no_variables")


def test_the_command_prints_a_document_or_writes_all(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["schema", "postback"])
    assert printed.output == text_of("postback")
    assert CliRunner().invoke(app, ["schema", "--write", str(tmp_path)]).exit_code == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"{name}.json": text_of(name) for name in DOCUMENTS
    }


@pytest.mark.parametrize("arguments", [[], ["results"], ["result", "--write", "/tmp"]])
def test_the_command_names_the_documents_if_it_is_misused(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["schema", *arguments])
    assert result.exit_code == 2
    assert "postback" in result.output
