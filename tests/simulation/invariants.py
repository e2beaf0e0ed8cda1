"""The invariants that hold at the end of every history. `ledger.py` checks the others as events happen.

A *cause* permits one repetition (see `ledger.py`). A job without causes has exactly the results and dead letters of its
kind, and exactly the messages that these need.
"""

from __future__ import annotations

from math import ceil

from pipeline.worker.failures import UNKNOWN_VERSION_DELAY
from tests.simulation.clock import EPOCH
from tests.simulation.ledger import JobRecord, Ledger
from tests.simulation.memory_sqs import MemorySQS

GIVEN_UP = "worker_crashed"

#: Trials of a message in quarantine that have to fail before it is given up.
TRIALS = 2

#: Causes that count as failed trials. A stop and the kill at its end do not.
TRIED = ("crash", "lost", "repeat", "expired", "interrupt", "kept", "hung")

#: Messages that a jump of Unix time by an hour may add to a job that waits.
HOPS = 6

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
    _nothing_is_left(ledger, sqs)
    buried_by_sqs = _buried_by_sqs(ledger, sqs)
    for job in ledger.jobs.values():
        if job.number not in buried_by_sqs:
            _none_is_given_up_early(job, ledger)
            _has_its_runs(job, ledger)
            _has_its_letters(job, ledger)
            _has_its_results(job, ledger)
            _is_sent_no_more_than_needed(job, ledger)
    _few_leases_run_out(ledger)
    _retries_are_rare(ledger)
    ledger.check()


def _nothing_is_left(ledger: Ledger, sqs: MemorySQS) -> None:
    left = {
        name: [int(message.id[:8], 16) for message in queue.messages.values()]
        for name, queue in sqs.queues.items()
        if queue.messages and not name.endswith("_dlq")
    }
    if left:
        ledger.fail("Some messages were not settled in time: {}.", left)


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


def _none_is_given_up_early(job: JobRecord, ledger: Ledger) -> None:
    """A job may be given up only if workers died during enough of its trials. Stops do not count."""
    trials = [message for message in ledger.messages.values() if message.job == job.number and message.in_quarantine]
    if job.is_given_up and all(sum(message.causes[each] for each in TRIED) < TRIALS for message in trials):
        ledger.fail("Job {} ({}) was given up too early.", job.number, job.kind.name)


def _has_its_runs(job: JobRecord, ledger: Ledger) -> None:
    least = 0 if job.is_given_up else job.kind.runs - job.kind.may_come_late
    most = (
        job.kind.runs * (1 + job.causes.total()) + ledger.jumps
    )  # what stops in the middle of trouble is also done again
    if not least <= job.runs <= most:
        ledger.fail("Job {} ({}) ran {} times; causes: {}.", job.number, job.kind.name, job.runs, dict(job.causes))


def _has_its_letters(job: JobRecord, ledger: Ledger) -> None:
    expected = dict(job.kind.letters)
    for queue, codes in job.letters.items():
        if {*codes} - {expected.get(queue), GIVEN_UP} or len(codes) > job.most:
            ledger.fail("Job {} ({}) has dead letters {}.", job.number, job.kind.name, job.letters)
    if {*expected} - {*job.letters} and not job.is_given_up:
        ledger.fail("Job {} ({}) has no dead letter in {}.", job.number, job.kind.name, [*expected])


def _has_its_results(job: JobRecord, ledger: Ledger) -> None:
    least = job.kind.results
    if GIVEN_UP in job.letters.get("sim_notify_dlq", ()):
        least = 0
    if not least <= job.results <= job.kind.results * job.most:
        ledger.fail("Job {} ({}) has {} results; causes: {}.", job.number, job.kind.name, job.results, dict(job.causes))


def _is_sent_no_more_than_needed(job: JobRecord, ledger: Ledger) -> None:
    """Each cause may repeat the whole way, and move the message to quarantine."""
    most = job.kind.messages * job.most + job.causes.total() + HOPS * ledger.jumps
    if job.kind.body == "newer job":  # it is sent again until a worker understands it
        most += job.most * ceil((ledger.newer_at - job.arrived + EPOCH) / UNKNOWN_VERSION_DELAY)
    if job.sends > most:
        ledger.fail("Job {} ({}) took {} messages, not up to {}.", job.number, job.kind.name, job.sends, most)


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
