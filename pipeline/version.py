"""The version of this software."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


def version() -> str:
    """Return the installed version, or `unknown` if the package is not installed."""
    try:
        return installed("image-pipeline")
    except PackageNotFoundError:
        return "unknown"
