"""Sentences about hosts that rest, from the heartbeats of several processes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pipeline.monitoring.processes import GONE_AFTER, Process, Resting, Work
from pipeline.monitoring.resting import resting_sentences

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def process(*resting: Resting, seen: float = 1.0) -> Process:
    started = NOW - timedelta(hours=2)
    return Process(
        "id", "notify", "a", 1, "1", ("notify",), 32, started, NOW - timedelta(seconds=seen), Work(resting=resting)
    )


def receiver(minutes: float, waiting: int, folder: str = "ACME") -> Resting:
    return Resting("receiver", "https://hooks.example", NOW - timedelta(minutes=minutes), waiting, folder)


def test_the_processes_are_added_up_by_host_and_folder() -> None:
    found = resting_sentences([process(receiver(40, 300)), process(receiver(35, 12), receiver(5, 1, "OTHER"))], NOW)
    assert found == [
        "The receiver https://hooks.example of the folder ACME has been resting for 40 min. 312 deliveries wait.",
        "The receiver https://hooks.example of the folder OTHER has been resting for 5 min. 1 delivery waits.",
    ]


def test_sources_belong_to_all_folders() -> None:
    source = Resting("source", "https://covers.example:8443", NOW - timedelta(seconds=50), 1200)
    assert resting_sentences([process(source)], NOW) == [
        "The source https://covers.example:8443 has been resting for 50 s. 1,200 jobs wait."
    ]


def test_a_process_that_is_gone_rests_nothing() -> None:
    assert resting_sentences([process(receiver(40, 300), seen=GONE_AFTER + 1)], NOW) == []
