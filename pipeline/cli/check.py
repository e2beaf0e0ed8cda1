"""The command `image-pipeline check`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from os.path import commonprefix
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pipeline.cli.output.terminal import console, error_console, new_app
from pipeline.ops.checks.model import Row
from pipeline.ops.checks.run import Finding, findings
from pipeline.ops.iam import ANY_ACCOUNT, GRANTS, input_queue, policy
from pipeline.settings import get_settings

app = new_app()

#: The symbol and style of each status.
MARKS = {"ok": ("✓", "green"), "skip": ("-", "dim"), "warn": ("!", "bold yellow"), "fail": ("✗", "bold red")}

#: The name of each status in the last line.
SUMMARY = {"fail": "failed", "warn": "to review", "ok": "passed", "skip": "skipped"}

#: Subjects that one line names; the rest are counted.
SHOWN = 3


def _known(process: str | None) -> str | None:
    if process is not None and process not in GRANTS:
        raise typer.BadParameter(f"{process!r} is not one of {', '.join(GRANTS)}")
    return process


@app.command()
def check(
    process: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROCESS]",
            callback=_known,
            help=f"Check only what this process needs: {', '.join(GRANTS)}. The default is all of the Procfile's.",
        ),
    ] = None,
    *,
    iam: Annotated[
        bool,
        typer.Option("--iam", help="Print the minimal IAM policy of each process, or of PROCESS, and check nothing."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, one for each finding.")] = False,
) -> None:
    """Check whether the service can work with these settings, and show how to fix what is wrong.

    Checks the environment, the credentials, every queue, the bucket, staging, MongoDB and the clock with the requests
    that the processes make. Leaves everything as it was: test objects in S3 are deleted again, and no message is sent,
    hidden or received.

    The exit status is 1 if a check fails. To find out whether a process has enough permissions, run the command with
    its credentials and name it.
    """
    if iam:
        _print_policies(process)
        return
    found = list(findings(process)) if as_json else _show(findings(process))
    if as_json:
        for finding in found:
            row = finding.row
            fields = {"group": finding.group, "check": finding.check, "status": row.status, "subject": row.subject}
            typer.echo(json.dumps(fields | {"says": row.message, "do": row.hint}, ensure_ascii=False))
    if any(finding.row.status == "fail" for finding in found):
        raise typer.Exit(1)


def _show(findings: Iterable[Finding]) -> list[Finding]:
    """Print a table for each group as soon as its checks are done, then a summary; return all findings."""
    found = []
    for group, members in groupby(findings, key=lambda finding: finding.group):
        group_findings = list(members)
        found += group_findings
        console.print(Text(group, "bold"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=3, justify="right")
        table.add_column(width=max(16, min(34, console.width - 46)), overflow="fold")
        table.add_column(ratio=1)
        for row, subjects in _folded(finding.row for finding in group_findings):
            mark, style = MARKS[row.status]
            dim = "dim" if row.status == "skip" else ""
            message = Text(row.message, dim)
            if row.hint:
                message.append(f"\n→ {row.hint}", dim or "cyan")
            table.add_row(Text(mark, style), Text(subjects, dim), message)
        console.print(table)
        console.print()
    counts = Counter(str(finding.row.status) for finding in found)
    console.print(
        Text(", ").join(
            Text(f"{counts[status]} {word}", MARKS[status][1]) for status, word in SUMMARY.items() if counts[status]
        )
    )
    return found


def _folded(rows: Iterable[Row]) -> Iterator[tuple[Row, str]]:
    """Merge rows with the same message; yield each with the text of its subjects."""
    together: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        together.setdefault((row.status, row.message, row.hint), []).append(row)
    for same in together.values():
        subjects = [row.subject for row in same]
        prefix = commonprefix(subjects)  # noqa: RUF071 - character by character
        if len(subjects) > SHOWN and prefix and same[0].status == "ok":
            yield same[0], f"{prefix}* ({len(subjects)})"
        else:
            more = [f"and {len(subjects) - SHOWN} more"] if len(subjects) > SHOWN else []
            yield same[0], "\n".join([*subjects[:SHOWN], *more])


def _print_policies(process: str | None) -> None:
    """Print the policies as JSON on standard output, and notes about placeholders on standard error."""
    settings = get_settings()
    policies = {name: policy(name, settings) for name in GRANTS}
    typer.echo(json.dumps(policies[process] if process else policies, indent=2))
    given = input_queue(settings)
    if not (given and given.account):
        error_console.print(f"Replace the account {ANY_ACCOUNT}: QUEUE_URL does not contain yours.", style="dim")
    if process in {None, "notify"}:
        error_console.print("Replace the redirect queues ChannelImages and EpisodeImages.fifo with yours.", style="dim")
