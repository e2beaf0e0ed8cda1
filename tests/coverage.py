"""Print the coverage of the last `make test` in a few lines: python -m tests.coverage."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from coverage import Coverage
from coverage.exceptions import NoDataError

NOTHING = "Covered: nothing was measured, because the run ended before a test ran a line of the product."

#: Modules whose lines and branches together are covered less than this percentage are listed.
LISTED_BELOW = 90.0


def measured() -> dict[str, Any]:
    """Return coverage's JSON report of the data in `.coverage`; empty without data."""
    data = Coverage()
    data.load()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        try:
            data.json_report(outfile=str(report))
        except NoDataError:
            return {}
        return dict(json.loads(report.read_text(encoding="utf-8")))


def lines(report: dict[str, Any]) -> list[str]:
    """Format the total, and the modules below `LISTED_BELOW`, least covered first."""
    total = report.get("totals", {})
    if "percent_branches_covered" not in total:
        return [NOTHING]
    shown = [
        f"Covered: {total['percent_statements_covered']:.1f} % of {total['num_statements']:,} lines, "
        f"{total['percent_branches_covered']:.1f} % of {total['num_branches']:,} branches"
    ]
    parts = sorted((file["summary"]["percent_covered"], name) for name, file in report["files"].items())
    return shown + [f"  {percent:5.1f} %  {name}" for percent, name in parts if percent < LISTED_BELOW]


if __name__ == "__main__":
    print(*lines(measured()), sep="\n")  # noqa: T201
