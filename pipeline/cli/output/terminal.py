"""Helpers shared by the commands: consoles, error messages and signals."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

console = Console()
error_console = Console(stderr=True)


class _PlainFlags:
    """Shows flags in the help without the type `<bool>`, because they take no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for each in params:
            if getattr(each, "is_flag", False):
                each.metavar = ""
        return params


class _PlainCommand(_PlainFlags, TyperCommand):
    pass


class _PlainGroup(_PlainFlags, TyperGroup):
    pass


class _App(typer.Typer):
    def command(self, name: str | None = None, **options: Any) -> Any:
        return super().command(name, **{"cls": _PlainCommand, **options})


def new_app(*, add_completion: bool = False, **settings: Any) -> typer.Typer:
    """Make the Typer application of one command or group, with the settings that all of them share."""
    return _App(
        cls=_PlainGroup,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        add_completion=add_completion,
        pretty_exceptions_enable=False,
        **settings,
    )


def print_error(error: Exception | str) -> None:
    """Print an error on standard error."""
    error_console.print("[bold red]error:[/]", Text(str(error)), highlight=False, soft_wrap=True)


def fail(error: Exception | str, status: int = 2) -> NoReturn:
    """Print an error and end the command with an exit status."""
    print_error(error)
    raise typer.Exit(status) from None


def confirmed(yes: bool, question: str, hint: str) -> bool:
    """Return whether to go on: with `--yes`, or after the question, which only a terminal is asked."""
    if yes or (sys.stdin.isatty() and typer.confirm(question)):
        return True
    console.print("Nothing was changed." if sys.stdin.isatty() else f"Nothing was changed: {hint}.")
    return False


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first SIGINT, SIGTERM or SIGHUP; ignore later ones, so that cleanup can finish."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(*_: object) -> None:
        for signum in signals:
            signal.signal(signum, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {signum: signal.signal(signum, stop) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
