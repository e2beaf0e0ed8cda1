"""The command `image-pipeline config`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from pydantic import AliasChoices, SecretStr
from rich.table import Table
from rich.text import Text

from pipeline.cli.output.terminal import console, new_app
from pipeline.recipe import RenditionSize
from pipeline.settings import Settings, environment, get_settings
from pipeline.text import printable

app = new_app()


@dataclass(frozen=True)
class Setting:
    """One setting as it is in effect."""

    variable: str
    value: str  #: `secret` instead of a secret; empty if it is not set
    source: str  #: `environment` or `default`


@app.command()
def config(
    *,
    changed: Annotated[bool, typer.Option("--changed", help="Only settings that the environment sets.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line for each setting.")] = False,
) -> None:
    """Show every setting: its value, or that it is secret, and where it came from.

    The values are those of this command's environment. honcho also reads `.env`, and systemd the files of its units.
    """
    found = [each for each in settings_in_effect() if not changed or each.source == "environment"]
    if as_json:
        for each in found:
            typer.echo(json.dumps(asdict(each)))
        return
    table = Table("Variable", "Value", "Source", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    table.columns[1].overflow = "fold"
    for each in found:
        style = "" if each.source == "environment" else "dim"
        table.add_row(each.variable, Text(printable(each.value) or "-", style), Text(each.source, style))
    console.print(table)


def settings_in_effect() -> Iterator[Setting]:
    """Yield every setting in the order of their definition.

    Raises:
        SettingsError: A variable has an invalid value.
    """
    settings, given = get_settings(), environment()
    for name, field in Settings.model_fields.items():
        aliases = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else (name,)
        variables = [str(alias).upper() for alias in aliases]
        variable = next((each for each in variables if each in given), variables[0])
        yield Setting(variable, _shown(getattr(settings, name)), "environment" if variable in given else "default")


def _shown(value: Any) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            text = "secret"
        case tuple() if not isinstance(value, RenditionSize):
            text = ",".join(map(_shown, value))
        case bool():
            text = "on" if value else "off"
        case float():
            text = f"{value:g}"
        case _:
            text = str(value)
    return text
