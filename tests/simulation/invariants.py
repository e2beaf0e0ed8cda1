"""Checks the invariants at the end of a history: those of `tests/support`, and those that only a simulation can see.

`ledger.py` checks the others as events happen.

A *cause* permits one repetition (see `ledger.py`). A job without causes has exactly the results and dead letters of its
kind, and exactly the messages that these need.
"""

from __future__ import annotations

from itertools import chain
from math import ceil

from pipeline.sqs.looks import GRID, LOOK
from pipeline.worker.failures import UNKNOWN_VERSION_DELAY
from tests.simulation.clock import EPOCH
from tests.simulation.happenings import HOUR
from tests.simulation.ledger import JobRecord, Ledger
from tests.simulation.memory_sqs import MemorySQS
from tests.support import invariants

#: Messages that a jump of Unix time by an hour may add to a job that waits: one for each look.
HOPS = ceil(HOUR / (LOOK - GRID))

#: Threads of a history that may wait for SQS at a time.
THREADS = 12

#: Seconds between attempts after some failures, by operation: half of the longest backoff. Extensions come more often.
SHORTEST = {"send": 7.5, "receive": 7.5, "delete": 7.5, "hide": 1.5}

#: Causes other than crashes that bring a message near the limit of its redrive policy.
MANY = 5

#: Leases of a message that may run out while SQS refuses extensions: each worker stops receiving when one has.
EXPIRED = 8


def check(ledger: Ledger, sqs: MemorySQS) -> None:
    """Raise a violation if an invariant does not hold."""
    buried_by_sqs = _buried_by_sqs(ledger, sqs)
    jobs = {str(number): job for number, job in ledger.jobs.items() if number not in buried_by_sqs}
    told = {number: job.story for number, job in jobs.items()}
    expected = {number: job.kind.expected for number, job in jobs.items()}
    for problem in chain(
        invariants.nothing_left(_left(sqs)),
        invariants.given_up(told),
        invariants.dead_letters(told, expected),
        invariants.results(told, expected),
    ):
        kind = f"Job {problem.job} ({jobs[problem.job].kind.name}): " if problem.job else ""
        ledger.fail("{}{}.", kind, problem.about)
    for job in jobs.values():
        _has_its_runs(job, ledger)
        _is_sent_no_more_than_needed(job, ledger)
    _few_leases_run_out(ledger)
    _retries_are_rare(ledger)
    ledger.check()


def _left(sqs: MemorySQS) -> dict[str, list[int]]:
    return {name: [int(id_[:8], 16) for id_ in queue.messages] for name, queue in sqs.queues.items()}


def _buried_by_sqs(ledger: Ledger, sqs: MemorySQS) -> set[int]:
    """Return the jobs that a redrive policy ended. In a stage, crashes alone may never lead to that."""
    jobs = set()
    for queue in sqs.queues.values():
        for message_id in queue.died:
            message = ledger.messages[message_id]
            others = message.causes.total() - (message.causes["crash"] if message.is_in_stage else 0)
            if others < (MANY if message.is_in_stage else queue.max_receives - 1):
                ledger.fail("SQS buried message {} of job {}: {}.", message.number, message.job, dict(message.causes))
            jobs.add(message.job)
    return jobs


def _has_its_runs(job: JobRecord, ledger: Ledger) -> None:
    runs = job.story.runs["fetch"]
    least = 0 if job.story.is_given_up else job.kind.runs - job.kind.may_come_late
    most = (
        job.kind.runs * (1 + job.story.causes.total()) + ledger.jumps
    )  # what stops in the middle of trouble is also done again
    if not least <= runs <= most:
        ledger.fail("Job {} ({}) ran {} times; causes: {}.", job.number, job.kind.name, runs, dict(job.story.causes))


def _is_sent_no_more_than_needed(job: JobRecord, ledger: Ledger) -> None:
    """Each cause may repeat the whole way, and move the message to quarantine."""
    most = job.kind.messages * job.story.most + job.story.causes.total() + HOPS * ledger.jumps
    if job.kind.body == "newer job":  # it is sent again until a worker understands it
        most += job.story.most * ceil((ledger.newer_at - job.arrived + EPOCH) / UNKNOWN_VERSION_DELAY)
    if job.story.sends > most:
        ledger.fail("Job {} ({}) took {} messages, not up to {}.", job.number, job.kind.name, job.story.sends, most)


def _retries_are_rare(ledger: Ledger) -> None:
    """While SQS refuses an operation, each thread asks ever more rarely. Extensions have to be frequent."""
    for operation, seconds in ledger.outages.items():
        most = THREADS * (10 + seconds / SHORTEST[operation])
        if ledger.refused[operation] > most:
            asked = ledger.refused[operation]
            ledger.fail("SQS refused to {} {} times in {:.0f} s, more than {:.0f}.", operation, asked, seconds, most)


def _few_leases_run_out(ledger: Ledger) -> None:
    for message in ledger.messages.values():
        if message.causes["expired"] > EXPIRED:
            ledger.fail("Message {} was received again and again: {}.", message.number, dict(message.causes))
