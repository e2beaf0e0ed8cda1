"""The themes of histories: which faults happen in them, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from random import Random

from tests.simulation.memory_sqs import Mischief


@dataclass(frozen=True)
class InputQueue:
    """The input queue, and the redrive policy that the customer gave it."""

    name: str
    max_receives: int

    @property
    def dead_letters(self) -> str:
        return "dead-input_dlq.fifo" if self.name.endswith(".fifo") else "dead-input_dlq"


@dataclass(frozen=True)
class Theme:
    """The faults that a history may have.

    Attributes:
        name: The name of the theme.
        weight: Its share of the seeds that name no theme.
        refuse: The probability that SQS refuses a request.
        lose: The probability that SQS applies a request and its answer is lost.
        omit: The probability that a batch request names some of its entries as failed, or not at all.
        malform: The probability that SQS applies a request and its answer is of another form.
        crash: The probability that a process dies just before or just after a request.
        interrupt: The probability that a time limit strikes late: in a request of a settlement.
        slow: The probability that a request takes seconds.
        mischief: The anomalies of SQS itself.
        events: The largest number of events: a process crashes, stops or SQS stops accepting one operation.
        arrivals: Seconds within which all jobs arrive. Events happen within twice that time.
        chaos: Seconds after which all faults end.
        outage: The longest outage, in seconds.
        operations: The operations that an outage may affect.
        kinds: The kinds of jobs; repeated ones are more frequent.
        jobs: The largest number of jobs.
        input_queue: The queue of `ingest` in which jobs arrive; None if they arrive in the first stage.
        processes: The processes.
        happenings: The kinds of events.
    """

    name: str
    weight: float = 1.0
    refuse: float = 0.0
    lose: float = 0.0
    omit: float = 0.0
    malform: float = 0.0
    crash: float = 0.0
    interrupt: float = 0.0
    slow: float = 0.0
    mischief: Mischief = Mischief()  # noqa: RUF009 - it is frozen
    events: int = 0
    arrivals: float = 60.0
    chaos: float = 150.0
    outage: float = 60.0
    operations: tuple[str, ...] = ("send", "receive", "delete", "hide")
    kinds: tuple[str, ...] = ("ok",)
    jobs: int = 4
    input_queue: InputQueue | None = None
    processes: tuple[str, ...] = ("worker 1", "worker 2", "quarantine")
    happenings: tuple[str, ...] = ("crash", "stop", "outage")

    @cached_property
    def faults(self) -> list[tuple[str, float]]:
        """The faults of requests that happen at all, and their probabilities."""
        named = ((name, getattr(self, name)) for name in ("refuse", "lose", "omit", "malform", "crash"))
        return [(name, probability) for name, probability in named if probability]


QUICK = ("ok", "ok", "slow", "retried", "failing", "undeliverable")
LONG = ("snoozed", "exhausting")  # these wait for a quarter of an hour
CALM = (*QUICK * 12, *LONG, *("rejected", "garbage") * 4)
INPUT = (*QUICK * 12, *LONG, *("rejected input", "garbage input") * 4)
POISON = (*CALM, *("poison", "late poison") * 8)
WITH_INGEST = ("ingest", "worker 1", "worker 2", "quarantine")
WITHOUT_QUARANTINE = ("worker 1", "worker 2")
REAL_SQS = Mischief(few=0.3, twice=0.02, back=0.02)

THEMES = {
    theme.name: theme
    for theme in (
        Theme("quiet", weight=4, chaos=60.0, kinds=CALM, processes=WITHOUT_QUARANTINE),
        Theme(
            "network",
            weight=70,
            refuse=0.05,
            lose=0.03,
            omit=0.05,
            arrivals=30.0,
            chaos=60.0,
            mischief=REAL_SQS,
            kinds=CALM,
        ),
        Theme(
            "crashes",
            weight=16,
            happenings=("crash", "stop"),
            crash=0.01,
            interrupt=0.01,
            events=3,
            arrivals=30.0,
            chaos=60.0,
            jobs=4,
            kinds=POISON,
        ),
        Theme("outages", weight=1.5, happenings=("outage",), events=3, chaos=1700.0, outage=1500.0, jobs=4, kinds=CALM),
        Theme(
            "hops",
            weight=1.5,
            omit=0.05,
            happenings=("outage",),
            operations=("receive",),
            events=1,
            arrivals=0.01,
            outage=1800.0,
            chaos=1800.0,
            kinds=("snoozed", "ok"),
            jobs=12,
            processes=WITHOUT_QUARANTINE,
        ),
        Theme(
            "ingest",
            weight=15,
            refuse=0.05,
            lose=0.03,
            omit=0.05,
            events=2,
            arrivals=40.0,
            outage=200.0,
            chaos=250.0,
            kinds=INPUT,
            input_queue=InputQueue("input", 2),
            processes=("ingest", "worker 1", "quarantine"),
        ),
        Theme(
            "slow",
            weight=30,
            slow=0.03,
            happenings=("hang", "stop"),
            events=2,
            arrivals=40.0,
            outage=100.0,
            chaos=120.0,
            kinds=CALM,
            mischief=REAL_SQS,
        ),
        Theme(
            "crowd",
            weight=14,
            happenings=("outage", "outage", "stop"),
            operations=("hide", "send"),
            events=5,
            arrivals=5.0,
            outage=120.0,
            chaos=130.0,
            jobs=16,
            kinds=("slow", "ok", "garbage", "retried", "newer"),
            processes=("worker 1", "worker 2", "quarantine"),
        ),
        Theme(
            "restarts",
            weight=10,
            happenings=("deploy", "stop"),
            events=8,
            arrivals=50.0,
            chaos=110.0,
            slow=0.005,
            jobs=4,
            kinds=("ok", "slow", "veteran", "older"),
        ),
        Theme(
            "letters",
            weight=60,
            happenings=("refused_letters", "deleted_letters"),
            events=3,
            arrivals=30.0,
            outage=60.0,
            chaos=60.0,
            kinds=("ok", "failing", "undeliverable", "rejected", "garbage"),
            processes=WITHOUT_QUARANTINE,
        ),
        Theme(
            "strange",
            weight=60,
            malform=0.03,
            happenings=("stop", "crash"),
            events=1,
            arrivals=30.0,
            chaos=60.0,
            kinds=("ok", "slow", "skipped", "NaN", "newer", "older", "garbage", "retried"),
        ),
        Theme(
            "lanes",
            weight=6,
            refuse=0.02,
            happenings=("pause", "stop", "crash"),
            events=2,
            arrivals=30.0,
            outage=50.0,
            chaos=60.0,
            kinds=("ok", "slow", "bulk", "bulk", "slow bulk", "giant", "bulk giant"),
            jobs=8,
            processes=("bulk worker", "giants", "all quarantine"),
        ),
        Theme(
            "hangs",
            weight=1.5,
            happenings=("freeze",),
            events=2,
            chaos=1200.0,
            kinds=("ok", "slow", "hanging", "dozing", "dozing"),
            jobs=4,
            input_queue=InputQueue("input", 5),
            processes=WITH_INGEST,
        ),
        Theme("clock", weight=2, happenings=("jump",), events=2, kinds=(*CALM, *LONG, *LONG), jobs=3),
        Theme(
            "idle",
            weight=0.1,
            arrivals=86400.0,
            chaos=86400.0,
            jobs=2,
            input_queue=InputQueue("input", 5),
            processes=("ingest", "worker 1"),
        ),
        Theme(
            "everything",
            weight=7,
            refuse=0.03,
            lose=0.02,
            omit=0.03,
            malform=0.01,
            crash=0.01,
            interrupt=0.01,
            slow=0.01,
            mischief=REAL_SQS,
            happenings=("crash", "stop", "outage", "hang", "pause", "refused_letters", "deleted_letters"),
            events=4,
            arrivals=40.0,
            outage=100.0,
            chaos=120.0,
            jobs=4,
            kinds=(*INPUT, *("poison", "late poison") * 8),
            input_queue=InputQueue("input.fifo", 5),
            processes=WITH_INGEST,
        ),
    )
}


def theme_of(seed: int) -> str:
    """Return the theme of a seed, if none is named: each theme has its share of the seeds."""
    drawn = Random(seed).uniform(0, sum(theme.weight for theme in THEMES.values()))
    for theme in THEMES.values():
        drawn -= theme.weight
        if drawn < 0:
            break
    return theme.name
