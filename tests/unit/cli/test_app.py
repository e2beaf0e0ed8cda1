"""The command line imports the module of a command only when it is called."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pipeline.cli.app import COMMANDS, app

#: Reports which of these modules the help of the command line imports.
HELP = """
import sys
from typer.testing import CliRunner
from pipeline.cli.app import app
result = CliRunner().invoke(app, ["--help"])
assert result.exit_code == 0, result.output
print(*sorted({"boto3", "botocore", "pymongo", "PIL", "obstore", "dramatiq", "pydantic", "uvicorn"} & set(sys.modules)))
"""


def test_the_help_lists_every_command_and_imports_none():
    help_ = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for name, summary in COMMANDS.items():
        assert name in help_
        assert summary in help_

    imported = subprocess.run([sys.executable, "-c", HELP], check=True, capture_output=True, text=True).stdout

    assert imported.strip() == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_is_that_of_the_command(name):
    command = get_command(app).commands[name].load()
    assert command.help.split("\n\n")[0].replace("\n", " ") == COMMANDS[name]


def test_a_command_that_does_not_exist_is_refused_with_a_suggestion():
    result = CliRunner().invoke(app, ["statsu"])
    assert result.exit_code == 2
    assert "'status'" in result.output


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_the_version_is_that_of_the_package(arguments):
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.output) == (0, f"image-pipeline {version('image-pipeline')}\n")


@pytest.mark.parametrize("command", [["submit"], ["dead", "redrive"], ["dead"], []])
def test_flags_have_no_type_in_the_help(command):
    help_ = CliRunner().invoke(app, [*command, "--help"]).output
    assert "--help" in help_
    assert "bool" not in help_


def test_the_help_names_the_exit_statuses():
    assert (
        "Exit status: 0 done, 1 something failed" in CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    )


@pytest.mark.parametrize(
    ("words", "completed"),
    [("sta", "status"), ("dead red", "redrive"), ("dead redrive --st", "--stage"), ("sweep st", "stop")],
)
def test_a_shell_completes_commands_and_options(words, completed):
    environ = {
        **os.environ,
        "_IMAGE_PIPELINE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"image-pipeline {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    command = [Path(sys.executable).parent / "image-pipeline"]
    found = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout.split()
    assert completed in found
