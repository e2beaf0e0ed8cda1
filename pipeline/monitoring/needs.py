"""The needs of an operator, the most urgent first: `status` and the overview begin with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.monitoring.job_log.reader import FailureGroup
from pipeline.monitoring.processes import Process
from pipeline.monitoring.queue_depths import DEAD, Depth
from pipeline.monitoring.retrying import MAX_TEXT, SERVICES, Retrying, merged
from pipeline.stages import NOTIFY, QUARANTINE
from pipeline.text import plural, printable

#: Jobs of one host or receiver that wait for a retry, below which it needs no one: some host is always down.
MIN_JOBS = 3

#: Maximum number of hosts and receivers to name, and of codes of dead letters.
MAX_HOSTS, MAX_CODES = 5, 3

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Need:
    """One line of the list."""

    text: str  #: its parts in back-ticks are commands
    page: str = "/failures"  #: the page of the dashboard with more about it
    is_bad: bool = True  #: whether jobs wait or fail because of it; otherwise it is only to be known
    try_kind: str = ""  #: the waiting jobs that can be tried now, as `orders.try_now` takes them; empty: none
    try_value: str = ""


def needs(
    depths: Iterable[Depth],
    processes: Iterable[Process],
    now: datetime,
    *,
    stalled: Mapping[str, str],
    paused: Iterable[str] = (),
    failures: Sequence[FailureGroup] = (),
    missing: Sequence[str] = (),
) -> list[Need]:
    """Return the needs of an operator.

    Args:
        depths: The queues.
        processes: The processes with their heartbeats.
        now: The current time.
        stalled: A sentence for each stage whose messages are not taken, from `stalls`.
        paused: The stages among them that an operator paused.
        failures: The dead letters of the last day by cause.
        missing: Names of queues that do not exist.
    """
    depths, paused, alive = list(depths), set(paused), [each for each in processes if each.is_alive(now)]
    found = merged((each for process in alive for each in process.work.retrying), now)
    services = [each for each in found if not each.where]
    hosts = [each for each in found if each.where and each.jobs >= MIN_JOBS]
    stops = {stage: f"{stage}: {sentence}" for stage, sentence in stalled.items()}
    return [
        *(Need(text, "/workers") for stage, text in stops.items() if stage not in paused),
        *(of_retrying(each, now) for each in services),
        *_troubles(alive, set(stalled.values())),
        *_missing(missing),
        *(of_retrying(each, now) for each in hosts[:MAX_HOSTS]),
        *_further(hosts[MAX_HOSTS:]),
        *_dead_letters(depths, failures),
        *_quarantine(depths),
        *(Need(text, "/workers", is_bad=False) for stage, text in stops.items() if stage in paused),
        *_versions(alive),
    ]


def of_retrying(each: Retrying, now: datetime) -> Need:
    """Describe jobs that wait for a retry."""
    since, following = _clock(each.since, now), _clock(each.next, now) if each.next > now else "now"
    if not each.where:
        detail = f" ({printable(each.detail)})" if each.detail else ""
        text = (
            f"Being retried: {each.jobs:,} {TIMES} {each.stage}, {each.code}{detail} since {since}, next {following}."
        )
        advice = " `image-pipeline check` explains it." if each.code in SERVICES else ""
        return Need(text + advice, try_kind="code", try_value=each.code)
    answers = f"answers {each.code.removeprefix('http_')}" if each.code[:5] == "http_" else f"fails ({each.code})"
    is_receiver = each.stage == NOTIFY.name
    jobs, wait = ("deliveries" if is_receiver else "jobs"), "wait"
    if each.jobs == 1:
        jobs, wait = ("delivery" if is_receiver else "job"), "waits"
    folders = f" of {plural(each.folders, 'folder')}" if each.folders else ""
    text = (
        f"{printable(each.where)} {answers}: {each.jobs:,} {jobs}{folders} {wait}, since {since}, next try {following}."
    )
    if len(each.where) >= MAX_TEXT:  # it may have been cut
        return Need(text)
    if is_receiver:
        return Need(text, try_kind="endpoint", try_value=each.where)
    return Need(text, try_kind="host", try_value=each.where.partition("://")[2])


def _clock(moment: datetime, now: datetime) -> str:
    """Format a time, with its date if that is not the present one."""
    return f"{moment:%H:%M} UTC" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M} UTC"


def _troubles(alive: Iterable[Process], known: set[str]) -> Iterator[Need]:
    types: dict[str, list[str]] = {}
    for process in alive:
        for sentence in process.work.trouble:
            types.setdefault(sentence, []).append(process.type)
    for sentence, of in types.items():
        if not any(sentence in each for each in known):
            yield Need(f"{', '.join(sorted(set(of)))}: {sentence.removesuffix('.')}.", "/workers")


def _missing(missing: Sequence[str]) -> Iterator[Need]:
    if missing:
        names = f"{missing[0]}, ..." if len(missing) > 1 else missing[0]
        yield Need(f"Missing queues: {len(missing)} ({names}). `image-pipeline provision` creates them.", "/workers")


def _further(hosts: Sequence[Retrying]) -> Iterator[Need]:
    if hosts:
        jobs = sum(each.jobs for each in hosts)
        yield Need(f"{plural(len(hosts), 'other host')} fail, and {plural(jobs, 'job')} wait for another attempt.")


def _dead_letters(depths: Iterable[Depth], failures: Sequence[FailureGroup]) -> Iterator[Need]:
    dead: dict[str, int] = {}
    for depth in depths:
        if depth.lane == DEAD and (count := depth.waiting + depth.in_flight):
            dead[depth.stage] = dead.get(depth.stage, 0) + count
    for stage, count in sorted(dead.items(), key=lambda each: -each[1]):
        causes = [f"{each.count:,} {TIMES} {each.code}" for each in failures if each.stage == stage]
        more = ", …" if len(causes) > MAX_CODES else ""
        recent = f" In the last day: {', '.join(causes[:MAX_CODES])}{more}." if causes else ""
        text = f"{plural(count, 'dead letter')} of {stage}: see `image-pipeline dead list`.{recent}"
        yield Need(text, is_bad=False)


def _quarantine(depths: Iterable[Depth]) -> Iterator[Need]:
    for depth in depths:
        if depth.lane == QUARANTINE and (count := depth.waiting + depth.in_flight):
            yield Need(
                f"{depth.stage}: {plural(count, 'message')} in quarantine, because workers died or stopped often.",
                "/workers",
                is_bad=False,
            )


def _versions(alive: Iterable[Process]) -> Iterator[Need]:
    versions = sorted({each.version for each in alive})
    if len(versions) > 1:
        text = f"The processes have {len(versions)} versions: {', '.join(versions)}. Deploy one everywhere."
        yield Need(text, "/workers", is_bad=False)
