"""The invariants of a job's outcome: what is missing, what is too much, and which causes permit it."""

from __future__ import annotations

import pytest

from tests.support.invariants import (
    Event,
    Expected,
    Problem,
    dead_letters,
    given_up,
    nothing_left,
    probes,
    results,
    stories,
)

RESULT, LETTER = Event("result", "a", "body"), Event("letter", "a", "http_404", "fetch_dlq")
CRASH = Event("cause", "a", "crash")
GIVEN_UP = Event("letter", "a", "worker_crashed", "fetch_dlq")


def about(problems: object) -> list[str]:
    return [problem.about for problem in problems]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("events", "found"),
    [
        ([RESULT], []),
        ([], ["no result"]),
        ([RESULT, RESULT], ["2 results; causes: {}"]),
        ([RESULT, RESULT, CRASH], []),
        ([RESULT, RESULT, Event("cause", "a", "stop")], ["2 results; causes: {'stop': 1}"]),
        ([RESULT, CRASH, Event("result", "a", "other")], ["results with different bodies: ['body', 'other']"]),
        ([RESULT, Event("result", "b")], ["a result that no one expects"]),
        ([Event("letter", "a", "worker_crashed", "notify_dlq")], []),
    ],
)
def test_results(events: list[Event], found: list[str]) -> None:
    assert about(results(stories(events), {"a": Expected()})) == found


@pytest.mark.parametrize(
    ("events", "found"),
    [
        ([LETTER], []),
        ([], ["no dead letter http_404 in fetch_dlq"]),
        ([LETTER, LETTER], ["2 dead letters http_404 in fetch_dlq; causes: {}"]),
        ([LETTER, LETTER, CRASH], []),
        ([LETTER, Event("letter", "a", "bad_job", "fetch_dlq")], ["an unexpected dead letter bad_job in fetch_dlq"]),
        ([LETTER, Event("letter", "b", "bad_job", "fetch_dlq")], ["an unexpected dead letter bad_job in fetch_dlq"]),
        ([GIVEN_UP], []),
    ],
)
def test_dead_letters(events: list[Event], found: list[str]) -> None:
    wanted = {"a": Expected(letters=frozenset({("fetch_dlq", "http_404")}))}
    assert about(dead_letters(stories(events), wanted)) == found


def test_a_run_that_cannot_see_causes_permits_equal_repetitions_and_nothing_else() -> None:
    wanted = {"a": Expected(letters=frozenset({("fetch_dlq", "http_404")}))}
    told = stories([RESULT, RESULT, LETTER, LETTER])
    assert not list(results(told, wanted, counts_causes=False))
    assert not list(dead_letters(told, wanted, counts_causes=False))
    told = stories([GIVEN_UP, Event("result", "a", "1"), Event("result", "a", "2")])
    assert about(results(told, wanted, counts_causes=False)) == ["results with different bodies: ['1', '2']"]
    assert about(dead_letters(told, wanted, counts_causes=False)) == [
        "no dead letter http_404 in fetch_dlq",
        "an unexpected dead letter worker_crashed in fetch_dlq",
    ]


def test_a_job_is_given_up_only_after_two_failed_trials_of_one_message() -> None:
    def trial(cause: str, message: str = "1") -> Event:
        return Event("cause", "a", cause, "fetch_quarantine", message)

    assert not list(given_up(stories([GIVEN_UP, trial("crash"), trial("crash")])))
    for innocent in (trial("killed"), trial("stop"), trial("crash", "2"), CRASH):
        assert len(list(given_up(stories([GIVEN_UP, trial("crash"), innocent])))) == 1


def test_queues_are_empty_and_processes_are_live_unless_they_hang() -> None:
    assert about(nothing_left({"fetch": [1], "fetch_dlq": [2], "notify": []})) == ["the queue fetch is not empty: [1]"]
    answers = [("fetch", ""), ("notify", "a thread has ended")]
    assert list(probes(answers)) == [Problem("", "notify is not live: a thread has ended")]
    assert not list(probes(answers, hanging=["notify"]))
