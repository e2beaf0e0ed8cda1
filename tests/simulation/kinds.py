"""The kinds of jobs: the work of each stage on them, and their expected outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.invariants import Expected

#: Seconds until a snoozed job is due: so many that its message hops, at least every 50 s or so.
SNOOZE = 1000.0


@dataclass(frozen=True)
class Kind:
    """One kind of jobs.

    Attributes:
        name: For the history.
        fetch: What its first stage does at each attempt: `ok`, `trouble`, `fail`, `snooze` or `kill`. The last one is
            repeated.
        notify: Likewise, for its last stage.
        seconds: How long each stage takes.
        letters: The error codes of the dead letters that it must have, by queue.
        results: How many results it must have: 0 or 1.
        messages: How many messages it needs if nothing goes wrong, dead letters included.
        runs: How often its first stage runs if nothing goes wrong.
        body: What its first message contains: a `payload`, a `bad payload`, `garbage`, `NaN`, a `bulk job`, a
            `newer job`, which no worker understands at first, or an `older job`, which the last release has sent.
        queue: The queue to which it is sent, without the namespace.
        is_giant: Whether it has a stage of its own between the two.
        is_skipped: Whether a middleware skips its messages.
    """

    name: str
    fetch: tuple[str, ...] = ("ok",)
    notify: tuple[str, ...] = ("ok",)
    seconds: float = 1.0
    letters: Mapping[str, str] = field(default_factory=dict)
    results: int = 1
    messages: int = 2
    runs: int = 1
    body: str = "payload"
    queue: str = "fetch"
    is_giant: bool = False
    is_skipped: bool = False

    @property
    def expected(self) -> Expected:
        """The outcome that it must have."""
        return Expected(self.results, frozenset(self.letters.items()))

    @property
    def may_come_late(self) -> bool:
        """Whether it has one run less if its first comes so late that it has nothing to wait for."""
        return "snooze" in self.fetch


KINDS = (
    Kind("ok"),
    Kind("slow", seconds=60.0),
    Kind("retried", fetch=("trouble", "trouble", "ok"), notify=("trouble", "ok"), messages=5, runs=3),
    Kind("snoozed", fetch=("snooze",), messages=24, runs=2),
    Kind("failing", fetch=("fail",), letters={"sim_fetch_dlq": "http_404"}, messages=3),
    Kind("exhausting", fetch=("trouble",), letters={"sim_fetch_dlq": "http_500"}, messages=30, runs=4),
    Kind("undeliverable", notify=("fail",), letters={"sim_notify_dlq": "http_410"}, results=0, messages=3),
    Kind("poison", fetch=("kill",), letters={"sim_fetch_dlq": "worker_crashed"}, messages=3, runs=5),
    Kind("late poison", notify=("kill",), letters={"sim_notify_dlq": "worker_crashed"}, results=0, messages=3),
    Kind("rejected", letters={"sim_fetch_dlq": "no_image"}, results=0, runs=0, body="bad payload"),
    Kind("garbage", letters={"sim_fetch_dlq": "bad_message"}, results=0, runs=0, body="garbage"),
    Kind("NaN", letters={"sim_fetch_dlq": "bad_message"}, results=0, runs=0, body="NaN"),
    Kind("skipped", letters={"sim_fetch_dlq": "skipped"}, results=0, runs=0, is_skipped=True),
    Kind("bulk", body="bulk job", queue="fetch_bulk"),
    Kind("slow bulk", body="bulk job", queue="fetch_bulk", seconds=60.0),
    Kind("giant", is_giant=True, messages=3, seconds=30.0),
    Kind("bulk giant", is_giant=True, messages=3, body="bulk job", queue="fetch_bulk", seconds=30.0),
    Kind("newer", body="newer job"),
    Kind("older", body="older job", messages=3),  # it is sent again until its retry is due
    Kind("veteran", queue="fetch_quarantine", seconds=60.0),  # its workers have died, and it was not its fault
    Kind("hanging", fetch=("hang", "ok"), runs=2),
    Kind("rejected input", letters={"sim_ingest_dlq": "no_image"}, results=0, runs=0, body="bad payload"),
    Kind("garbage input", letters={"sim_ingest_dlq": "not_json"}, results=0, runs=0, body="garbage"),
)
BY_NAME = {kind.name: kind for kind in KINDS}
