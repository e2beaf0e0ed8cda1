"""The list of what needs an operator: its sentences and its order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.monitoring.job_log.reader import FailureGroup
from pipeline.monitoring.needs import MAX_HOSTS, MIN_JOBS, Need, needs, of_retrying
from pipeline.monitoring.processes import GONE_AFTER, Process, Work
from pipeline.monitoring.queue_depths import Depth
from pipeline.monitoring.retrying import MAX_TEXT, Retrying

NOW = datetime(2026, 3, 1, 5, 48, tzinfo=UTC)
HOOK = "http://hooks.example/in"


def process(*retrying: Retrying, type_: str = "notify", seen: float = 1.0, **more: object) -> Process:
    facts = {"version": "1.0", "threads": 32, "started": NOW - timedelta(hours=2)} | more
    trouble = facts.pop("trouble", ())
    work = Work(retrying=retrying, trouble=trouble)  # type: ignore[arg-type]
    return Process(
        "id", type_, "a", 1, stages=(type_,), seen=NOW - timedelta(seconds=seen), work=work, **facts  # type: ignore[arg-type]
    )  # fmt: skip


def retried(
    stage: str, code: str, where: str = "", jobs: int = 120, *, detail: str = "", folders: int = 37
) -> Retrying:
    minute = NOW.replace(minute=46)
    return Retrying(stage, code, detail, where, jobs, folders, minute, NOW.replace(minute=49), NOW)


def texts(found: list[Need]) -> list[str]:
    return [need.text for need in found]


@pytest.mark.parametrize(
    ("each", "text", "try_now"),
    [
        (
            retried("fetch", "s3_error", detail="AccessDenied"),
            "Being retried: 120 × fetch, s3_error (AccessDenied) since 05:46 UTC, next 05:49 UTC. "  # noqa: RUF001
            "`image-pipeline check` explains it.",
            ("code", "s3_error"),
        ),
        (
            retried("notify", "http_503", HOOK, jobs=750),
            f"{HOOK} answers 503: 750 deliveries of 37 folders wait, since 05:46 UTC, next try 05:49 UTC.",
            ("endpoint", HOOK),
        ),
        (
            retried("fetch", "timeout", "https://covers.example:8443", jobs=1, folders=1),
            "https://covers.example:8443 fails (timeout): 1 job of 1 folder waits, since 05:46 UTC, "
            "next try 05:49 UTC.",
            ("host", "covers.example:8443"),
        ),
        (
            retried("notify", "http_500", f"https://hooks.example/{'x' * MAX_TEXT}"[:MAX_TEXT]),
            None,
            ("", ""),
        ),
    ],
    ids=["service", "receiver", "host", "a URL that was cut"],
)  # fmt: skip
def test_jobs_that_wait_for_a_retry_are_one_line(each: Retrying, text: str | None, try_now: tuple[str, str]) -> None:
    need = of_retrying(each, NOW)
    assert text in {need.text, None}
    assert (need.try_kind, need.try_value) == try_now


def test_a_time_of_another_day_has_its_date_and_one_that_has_come_is_now() -> None:
    later = NOW + timedelta(days=1)
    assert "since 2026-03-01 05:46 UTC, next now." in of_retrying(retried("fetch", "s3_error"), later).text


def test_the_most_urgent_is_first() -> None:
    depths = [
        Depth("fd", "fetch", "dead", 10, 2, 0),
        Depth("nd", "notify", "dead", 30, 0, 0),
        Depth("fq", "fetch", "quarantine", 1, 0, 0),
    ]
    processes = [
        process(retried("notify", "http_503", HOOK, jobs=700), retried("fetch", "s3_error", jobs=2)),
        process(retried("notify", "timeout", HOOK, jobs=50), type_="fetch", trouble=("the disk is full",)),
        process(type_="upload", version="2.0"),
        process(retried("resize", "s3_error"), type_="resize", seen=GONE_AFTER + 1),
    ]
    failures = [FailureGroup("fetch", "http_404", 11, NOW, "Gone.", ()), FailureGroup("fetch", "empty", 1, NOW, "", ())]
    stalled = {"upload": "0 wait: paused for 3 min.", "giants": "13 wait, none is in flight."}
    found = needs(
        depths, processes, NOW, stalled=stalled, paused=["upload"], failures=failures, missing=["ip_a", "ip_b"]
    )
    assert [text.split(" ")[:4] for text in texts(found)] == [
        ["giants:", "13", "wait,", "none"],
        ["Being", "retried:", "2", "×"],  # noqa: RUF001
        ["fetch:", "the", "disk", "is"],
        ["Missing", "queues:", "2", "(ip_a,"],
        [HOOK, "answers", "503:", "750"],
        ["30", "dead", "letters", "of"],
        ["12", "dead", "letters", "of"],
        ["fetch:", "1", "message", "in"],
        ["upload:", "0", "wait:", "paused"],
        ["The", "processes", "have", "2"],
    ]
    assert [need.is_bad for need in found] == [True] * 5 + [False] * 5
    assert found[6].text.endswith("In the last day: 11 × http_404, 1 × empty.")  # noqa: RUF001


def test_a_reason_that_a_stall_names_is_not_named_again() -> None:
    found = needs([], [process(trouble=("SQS is away",))], NOW, stalled={"notify": "3 wait, none taken: SQS is away."})
    assert len(found) == 1


def test_few_jobs_of_a_host_need_no_one_and_many_hosts_are_cut() -> None:
    assert needs([], [process(retried("fetch", "http_500", "http://a", MIN_JOBS - 1))], NOW, stalled={}) == []
    many = [retried("fetch", "http_500", f"http://host-{n}", jobs=100 - n) for n in range(MAX_HOSTS + 2)]
    found = needs([], [process(*many)], NOW, stalled={})
    assert len(found) == MAX_HOSTS + 1
    assert found[-1].text == "2 other hosts fail, and 189 jobs wait for another attempt."
