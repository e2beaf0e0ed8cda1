"""The command line, called in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from pipeline.cli.app import app


def image_pipeline(*arguments: str, status: int = 0) -> str:
    """Run a command; returns its output on one line, however wide the terminal is."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert result.exit_code == status, (result.output, result.exception)
    return " ".join(result.output.split())
