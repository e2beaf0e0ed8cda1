"""The table of `image-pipeline check --mongo-explain`."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import groupby

import typer
from rich.table import Table
from rich.text import Text

from pipeline.cli.output.terminal import console
from pipeline.ops.mongo_plans import Explained, explain_all

NOTE = (
    "! marks a query that should use an index and does not. Counts and lists of marks read the whole collection by "
    "design, when a person asks. COLLSCAN reads a whole collection; IXSCAN, IDHACK and EXPRESS use an index."
)


def print_plans(*, as_json: bool) -> None:
    """Print each query of the sweeps with its plan, and end with status 1 if an index that one needs does not serve it.

    A server that cannot explain is not a failure, because sweeps do not need it.
    """
    explained = []
    for _, group in groupby(explain_all(), key=lambda each: each.query.collection):
        members = list(group)
        explained += members
        if as_json:
            for each in members:
                typer.echo(json.dumps(_fields(each)))
        else:
            _print_table(members)
    if not as_json:
        console.print(Text(NOTE, "dim"))
    if any(each.plan and not each.is_served for each in explained):
        raise typer.Exit(1)


def _print_table(members: list[Explained]) -> None:
    console.print(Text(members[0].query.collection, "bold"))
    table = Table.grid(padding=(0, 2, 0, 0))
    for each in members:
        served = each.is_served
        mark = Text("✓", "green") if served else Text("-", "dim") if each.plan is None else Text("!", "bold yellow")
        table.add_row("", mark, each.query.purpose, _plan(each), _documents(each))
    console.print(table)
    console.print()


def _plan(explained: Explained) -> str:
    plan = explained.plan
    if plan is None:
        return explained.problem
    return " ← ".join(plan.stages) + (f" ({', '.join(plan.indexes)})" if plan.indexes else "")


def _documents(explained: Explained) -> str:
    plan = explained.plan
    if plan is None:
        return ""
    return "planned only" if plan.examined is None else f"{plan.examined} examined, {plan.returned} returned"


def _fields(explained: Explained) -> dict[str, object]:
    query, plan = explained.query, explained.plan
    found = asdict(plan) if plan else dict.fromkeys(("stages", "indexes", "examined", "returned"))
    return {
        "collection": query.collection,
        "purpose": query.purpose,
        "needs": query.index or None,
        **found,
        "served": explained.is_served,
        "problem": explained.problem or None,
    }
