"""Finds jobs: the fields of the form on the page of jobs, and the links that continue a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from pipeline.monitoring.job_log.search import JobFilter, Outcomes
from pipeline.stages import STAGES, Lane

#: Names of the lanes on the page. The default is `live`, or all if anything else is asked for.
LANES: dict[str, tuple[str, Lane | None]] = {
    "live": ("Live", Lane.LIVE),
    "sweep": ("Sweeps", Lane.BULK),
    "all": ("All", None),
}

OUTCOMES: dict[Outcomes, str] = {"": "Any outcome", "failed": "Failed", "well": "Not failed"}

#: Stages in which a job may be due or have failed.
STAGE_NAMES = ("ingest", *(stage.name for stage in STAGES))

#: Maximum length of a field, in characters.
MAX_TEXT = 300


@dataclass(frozen=True)
class Search:
    """The search of a visitor, as in the address of the page."""

    text: str = ""
    lane: str = "live"
    outcome: Outcomes = ""
    stage: str = ""
    code: str = ""
    after: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Search:
        """Parse the query of a request. Unknown values count as not given."""
        given = {name: query.get(name, "").strip()[:MAX_TEXT] for name in ("q", "stage", "code", "outcome", "lane")}
        stage = given["stage"] if given["stage"] in STAGE_NAMES else ""
        outcome: Outcomes = next((each for each in OUTCOMES if each == given["outcome"]), "")
        anything = any((given["q"], stage, given["code"], outcome))
        lane = given["lane"] if given["lane"] in LANES else "all" if anything else "live"
        return cls(given["q"], lane, outcome, stage, given["code"], query.get("after", "")[:20])

    @property
    def filter(self) -> JobFilter:
        """The filter of the job log."""
        return JobFilter(LANES[self.lane][1], self.outcome, self.stage, self.code, self.text)

    @property
    def is_narrow(self) -> bool:
        """Whether it restricts the list by more than the lane."""
        return any((self.text, self.outcome, self.stage, self.code))

    def link(self, **changes: str) -> str:
        """Return the address of the page with some fields changed, at its beginning unless `after` is given."""
        fields = {"q": self.text, "lane": self.lane, "outcome": self.outcome, "stage": self.stage, "code": self.code}
        return f"/jobs?{urlencode({name: value for name, value in (fields | changes).items() if value})}"
