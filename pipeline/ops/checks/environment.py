"""Environment variables that look like settings but are not read as such."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from pipeline.ops.checks.model import Row, warn
from pipeline.settings import Settings, environment


def unread_variables(settings: Settings) -> Iterator[Row]:
    """Yield a warning for each variable that is misspelled, ignored or not loaded."""
    known = {name.upper() for name in (*Settings.model_fields, "environment")}
    variables = environment()
    given = set(variables)
    for name in sorted(given - known):
        similar = [] if name.startswith("AWS_") else difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if similar and similar[0] not in given:
            message = f"This variable is not read; {similar[0]} is."
            yield warn(name, message, "Rename it if you meant that one.")
    region = variables.get("AWS_DEFAULT_REGION")
    if region and region != settings.aws_region:
        message = f"It differs from AWS_REGION={settings.aws_region}, and only AWS_REGION is read."
        yield warn("AWS_DEFAULT_REGION", message, "Set AWS_REGION.")
    if unloaded := sorted(_names_in_env_file() & known - given):
        message = f"{', '.join(unloaded)} of this folder's .env is not in the environment: only honcho reads .env."
        yield warn(".env", message, "Load it first: `set -a; . ./.env; set +a`.")


def _names_in_env_file() -> set[str]:
    try:
        lines = Path(".env").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    pairs = (line.removeprefix("export ").partition("=") for line in lines)
    return {name.strip().upper() for name, _, value in pairs if value.strip().strip("'\"")}
