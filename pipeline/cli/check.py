"""The command `image-pipeline check`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from os.path import commonprefix
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.ops.iam import ANY_ACCOUNT, GRANTS, input_queue, policy
from pipeline.settings import get_settings

if TYPE_CHECKING:
    from pipeline.ops.checks.model import Row
    from pipeline.ops.checks.run import Finding

console = Console()
asides = Console(stderr=True)

#: By status: how it is drawn, and what it is called in the last line.
MARKS = {"ok": ("✓", "green"), "skip": ("-", "dim"), "warn": ("!", "bold yellow"), "fail": ("✗", "bold red")}

#: Subjects that one line names; of more, it says how many.
SHOWN = 3


def _known(process: str | None) -> str | None:
    if process is not None and process not in GRANTS:
        raise typer.BadParameter(f"{process!r} is none of {', '.join(GRANTS)}")
    return process


def check(
    process: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROCESS]",
            callback=_known,
            help=f"Only what this one needs: {', '.join(GRANTS)}. By default, all of the Procfile's.",
        ),
    ] = None,
    *,
    iam: Annotated[
        bool, typer.Option("--iam", help="Print the least IAM policy of each process, or of PROCESS, and try nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, one for each finding.")] = False,
) -> None:
    """Try whether the service can work as it is set up here, and say what to do where it cannot.

    Looks at the environment, the credentials, every queue, the bucket, staging, MongoDB and the clock, by trying what
    the processes do. Changes nothing: what it writes to S3 it deletes again; no message is sent, hidden or received.

    The exit status is 1 if something fails. Run it with a process's own credentials and name the process to know
    whether they are enough for it.
    """
    if iam:
        _print_policies(process)
        return
    from pipeline.ops.checks.run import findings  # noqa: PLC0415 - boto3 is slow to import

    found = list(findings(process)) if as_json else _show(findings(process))
    if as_json:
        for finding in found:
            row = finding.row
            fields = {"group": finding.group, "check": finding.check, "status": row.status, "subject": row.subject}
            typer.echo(json.dumps(fields | {"says": row.says, "do": row.do}, ensure_ascii=False))
    if any(finding.row.status == "fail" for finding in found):
        raise typer.Exit(1)


def _show(findings: Iterable[Finding]) -> list[Finding]:
    """A table for each group, drawn as soon as the group is done."""
    found = []
    for group, members in groupby(findings, key=lambda finding: finding.group):
        kept = list(members)
        found += kept
        console.print(Text(group, "bold"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=3, justify="right")
        table.add_column(width=max(16, min(34, console.width - 46)), overflow="fold")
        table.add_column(ratio=1)
        for row, subjects in _folded(finding.row for finding in kept):
            mark, style = MARKS[row.status]
            says = Text(row.says, "dim" if row.status == "skip" else "")
            if row.do:
                says.append(f"\n→ {row.do}", "dim" if row.status == "skip" else "cyan")
            table.add_row(Text(mark, style), Text(subjects, "dim" if row.status == "skip" else ""), says)
        console.print(table)
        console.print()
    counts = Counter(str(finding.row.status) for finding in found)
    words = {"fail": "wrong", "warn": "to look at", "ok": "good", "skip": "not tried"}
    line = Text(", ").join(
        Text(f"{counts[status]} {word}", MARKS[status][1]) for status, word in words.items() if counts[status]
    )
    console.print(line)
    return found


def _folded(rows: Iterable[Row]) -> Iterator[tuple[Row, str]]:
    """Rows that say the same become one, with all their subjects."""
    together: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        together.setdefault((row.status, row.says, row.do), []).append(row)
    for same in together.values():
        subjects = [row.subject for row in same]
        prefix = commonprefix(subjects)  # noqa: RUF071 - character by character
        if len(subjects) > SHOWN and prefix and same[0].status == "ok":
            yield same[0], f"{prefix}* ({len(subjects)})"
        else:
            more = [f"and {len(subjects) - SHOWN} more"] if len(subjects) > SHOWN else []
            yield same[0], "\n".join([*subjects[:SHOWN], *more])


def _print_policies(process: str | None) -> None:
    """JSON on standard output; what is to be replaced in it, on standard error."""
    settings = get_settings()
    policies = {name: policy(name, settings) for name in GRANTS}
    typer.echo(json.dumps(policies[process] if process else policies, indent=2))
    given = input_queue(settings)
    if not (given and given.account):
        asides.print(f"Replace the account {ANY_ACCOUNT}: QUEUE_URL does not tell yours.", style="dim")
    if process in {None, "notify"}:
        asides.print("Replace the redirect queues ChannelImages and EpisodeImages.fifo by yours.", style="dim")
