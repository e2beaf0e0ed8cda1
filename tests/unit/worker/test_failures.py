"""How failed messages are settled: each decision is plain data."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

import dramatiq
import pytest
from dramatiq.errors import BrokerConnectionError
from dramatiq.middleware import TimeLimitExceeded

from pipeline.errors import Dropped, PermanentError, PipelineError, Rejected, Retry, RetryableError, Snoozed
from pipeline.events import Event, Outcome, subscribe, unsubscribe
from pipeline.job import CLEAN_UP, Job, Sweep, Unfinished, UnknownVersion
from pipeline.objective import Side
from pipeline.settings import Settings
from pipeline.sqs.leases import Lease
from pipeline.sqs.queues import GIVE_UP_AT, RETENTION
from pipeline.sqs.settlement import Bury, Delete, Enqueue, Letter, Release, Settlement, SQSMessage
from pipeline.sqs.wire import ATTEMPTS, CODE
from pipeline.stages import FETCH, RESIZE, Lane
from pipeline.worker.failures import Decision, Failed, Failures, Unsettled
from pipeline.worker.messages import attempt_at
from pipeline.worker.retry import RetryPolicy

NOW = 1_700_000_000.0
URL, OTHER = "http://example.com/cover.jpg", "http://other.example/cover.jpg"


class FixedRandom(random.Random):
    """Draws the same number each time."""

    def __init__(self, factor: float) -> None:
        super().__init__(1)
        self.factor = factor

    def uniform(self, a: float, b: float) -> float:
        assert (a, b) == (0.8, 1.2)
        return self.factor


def a_job() -> Job:
    payload = {"image_url": URL, "redirect_queue": "results"}
    return Job.accept(payload, job_id="job-1", settings=Settings(), stage_payload=lambda _: "")


def received(queue: str = "fetch", original: str = "", *, age: float = 0.0, **options: Any) -> SQSMessage:
    message: dramatiq.Message[Any] = dramatiq.Message(
        queue_name=original or queue,
        actor_name="fetch_image",
        args=(),
        kwargs={"job": {}},
        options=options,
        message_id="message-1",
        message_timestamp=int((NOW - age) * 1000),
    )
    return SQSMessage(message, Lease("id", "handle", 0.0, 15.0, 45.0), queue_name=queue)


def message_of(job: Job) -> dramatiq.Message[Any]:
    return dramatiq.Message(queue_name=job.due.name, actor_name=job.due.actor, args=(), kwargs={}, options={})


def of_unknown_version(message: SQSMessage) -> Job:
    raise UnknownVersion("version 99")


def decide(message: SQSMessage, error: BaseException, *, factor: float = 1.0, job: Job | None = None) -> Decision:
    def job_of(asked: SQSMessage) -> Job:
        assert asked is message
        return job or a_job()

    settlement = Failures(RetryPolicy(FixedRandom(factor)), job_of, message_of)
    return settlement.decide(failed(message, error))


def failed(message: SQSMessage, error: BaseException) -> Failed:
    return Failed(message, attempt_at(message), error, NOW, 1.5)


def the_send(decision: Decision) -> Any:
    assert decision.settlement.ending == Delete()
    (send,) = decision.settlement.sends
    return send


def test_a_retryable_error_is_retried_after_its_delay() -> None:
    decision = decide(received(), RetryableError("http_500", "Busy.", retry=Retry.SOURCE))
    send = the_send(decision)
    assert (send.delay, send.message.options[ATTEMPTS]) == (2000, {"source": 1})
    ((event),) = decision.events
    assert (event.outcome, event.wait, event.code, event.seconds) == (Outcome.RETRY, 2.0, "http_500", 1.5)
    assert (event.attempt, event.attempts) == (1, 1 + len(Settings().fetch_retry_delays))
    job = a_job()
    assert (event.job, event.worked_on) == (job, tuple(source.url for source in job.sources))


@pytest.mark.parametrize("attempts", range(9))
def test_every_delay_is_used_once(attempts: int) -> None:
    message = received("upload", attempts={"service": attempts} if attempts else {})
    decision = decide(message, RetryableError("s3_error", "S3 is down."))
    kinds = [type(send) for send in decision.settlement.sends]
    assert kinds == ([Enqueue] if attempts < len(Settings().retry_delays) else [Letter, Enqueue])


def test_a_snooze_is_not_an_attempt() -> None:
    decision = decide(received(attempts={"source": 1}), Snoozed("host_busy", "Busy.", 3.5))
    send = the_send(decision)
    assert (send.delay, send.message.options[ATTEMPTS]) == (3500, {"source": 1})
    assert [event.outcome for event in decision.events] == [Outcome.SNOOZED]


def test_a_permanent_error_leaves_a_letter_and_passes_the_job_on() -> None:
    decision = decide(received(attempts={"source": 1}), PermanentError("http_404", "Gone."))
    letter, following = decision.settlement.sends
    assert decision.settlement.ending == Delete()
    assert (letter.reason.code, letter.reason.stage, letter.reason.attempts) == ("http_404", "fetch", 2)
    assert letter.message.options[ATTEMPTS] == {}
    assert following.message.queue_name == "notify"
    (event,) = decision.events
    assert (event.outcome, event.arrived, event.seconds, event.attempt) == (Outcome.GIVEN_UP, NOW, 1.5, 2)
    assert event.job
    assert [source.error for source in event.job.sources] == [PermanentError("http_404", "Gone.").info("fetch")]
    assert event.worked_on == tuple(source.url for source in event.job.sources)


def test_the_letters_and_retries_of_a_quarantined_message_belong_to_its_own_queue() -> None:
    message = received("fetch_quarantine", "fetch_bulk")
    retry = the_send(decide(message, RetryableError("http_500", "Busy.", retry=Retry.SOURCE)))
    assert retry.message.queue_name == "fetch_bulk"
    letter, _ = decide(message, PermanentError("worker_crashed", "No worker survived it.")).settlement.sends
    assert (letter.message.queue_name, letter.reason.stage) == ("fetch_bulk", "fetch")


def test_what_is_no_job_is_buried() -> None:
    decision = decide(received(), Rejected("bad_job", "No job."))
    assert isinstance(decision.settlement.ending, Bury)
    assert (decision.settlement.ending.reason.code, decision.settlement.sends) == ("bad_job", ())
    assert [(event.outcome, event.job_id) for event in decision.events] == [(Outcome.REJECTED, "message-1")]


def test_a_job_of_an_unknown_version_waits_for_a_newer_worker_and_is_buried_in_the_end() -> None:
    send = the_send(decide(received(), UnknownVersion("version 99")))
    assert send.delay == 30_000
    ending = decide(received(age=RETENTION + 1), UnknownVersion("version 99")).settlement.ending
    assert isinstance(ending, Bury)
    assert ending.reason.code == "unknown_version"
    assert ending.reason.message == "No worker understood the job for 14 days: version 99."


def test_a_job_of_an_unknown_version_that_is_given_up_is_left_to_a_newer_worker_in_its_own_queue() -> None:
    # Given a job in quarantine that must not run again, whose version this worker does not know
    message = received("fetch_quarantine", "fetch_bulk")
    message.is_quarantined, message.receives = True, GIVE_UP_AT
    settlement = Failures(RetryPolicy(), of_unknown_version, message_of)
    crashed = PermanentError("worker_crashed", "No worker survived it.")
    # When it is settled, then it is sent again, and its receives count from the start.
    send = the_send(settlement.decide(failed(message, crashed)))
    assert (send.message.queue_name, send.delay) == ("fetch_bulk", 30_000)
    # When no worker has understood it for as long as SQS keeps messages, then it is a dead letter with a reason.
    message = received("fetch_quarantine", "fetch_bulk", age=RETENTION + 1)
    decision = settlement.decide(failed(message, crashed))
    assert isinstance(decision.settlement.ending, Bury)
    assert decision.settlement.ending.reason.code == "unknown_version"
    assert [event.outcome for event in decision.events] == [Outcome.REJECTED]


def test_parts_of_a_job_are_settled_separately() -> None:
    job = a_job()
    retried, failed = RetryableError("http_500", "Busy.", retry=Retry.POSTBACK), PermanentError("http_410", "Gone.")
    error = Unfinished((job, {"postback_url": retried}), (job, {"redirect_queue": failed}))
    decision = decide(received("notify"), error)
    assert [type(send) for send in decision.settlement.sends][:2] == [Enqueue, Letter]
    assert [event.outcome for event in decision.events] == [Outcome.RETRY, Outcome.GIVEN_UP]


@pytest.mark.parametrize("silent", [False, True])
def test_a_dropped_job_leaves_no_dead_letter_and_has_a_result_unless_silent(silent: bool) -> None:
    # Given a job of two images, of which one is on a host that an operator drops
    payload = {"image_url": URL, "itunes_image": OTHER, "redirect_queue": "results"}
    job = Job.accept(payload, job_id="job-1", settings=Settings(), stage_payload=lambda _: "")
    dropped = Dropped(silent=silent)
    # When the other one is retried
    retried = RetryableError("http_500", "Busy.", retry=Retry.SOURCE)
    decision = decide(received(), Unfinished((job, {URL: dropped, OTHER: retried})), job=job)
    # Then it alone is still due.
    (send,) = decision.settlement.sends
    assert Job.decode(send.message.kwargs["job"]).urls_due(FETCH) == (OTHER,)
    assert [event.outcome for event in decision.events] == [Outcome.DROPPED, Outcome.RETRY]
    # When both are dropped
    decision = decide(received(), Unfinished((job, {URL: dropped, OTHER: dropped})), job=job)
    # Then the job ends: it goes on to its result unless that is not wanted.
    assert [send.message.queue_name for send in decision.settlement.sends] == ([] if silent else ["notify"])
    ((event),) = decision.events
    assert (event.outcome, event.code, event.worked_on) == (Outcome.DROPPED, "dropped", (URL, OTHER))
    assert (event.job.id, event.job.urls_due(FETCH)) == (job.id, ())


def test_a_sweeps_document_gets_the_outcome_of_a_job_that_was_dropped_silently() -> None:
    job = replace(a_job(), sweep=Sweep("channels", "run", "cover"), lane=Lane.BULK)
    decision = decide(received("fetch_bulk"), Unfinished((job, {URL: Dropped(silent=True)})), job=job)
    assert the_send(decision).message.queue_name == "notify"


def test_a_dropped_image_does_not_cost_the_dead_letter_of_the_other() -> None:
    payload = {"image_url": URL, "itunes_image": OTHER, "redirect_queue": "results"}
    job = Job.accept(payload, job_id="job-1", settings=Settings(), stage_payload=lambda _: "")
    gone = PermanentError("http_404", "Gone.")
    decision = decide(received(), Unfinished((job, {URL: Dropped(silent=True), OTHER: gone})), job=job)
    letter, following = decision.settlement.sends
    assert (type(letter), letter.reason.code) == (Letter, "http_404")
    assert Job.decode(letter.message.kwargs["job"]).urls_due(FETCH) == (OTHER,)
    assert following.message.queue_name == "notify"


def test_a_retry_names_the_code_that_it_waits_after() -> None:
    decision = decide(received(), RetryableError("http_500", "Busy.", retry=Retry.SOURCE))
    assert the_send(decision).message.options[CODE] == "http_500"


@pytest.mark.parametrize(
    ("stage", "error", "side"),
    [
        ("fetch", RetryableError("http_503", "Busy.", retry=Retry.SOURCE, retry_after=60), Side.SOURCE),
        ("fetch", Snoozed("host_resting", "Resting.", 60), Side.SOURCE),
        ("fetch", Snoozed("too_many_slow", "No room.", 60), Side.SERVICE),
        ("upload", RetryableError("s3_error", "Down.", retry_after=60), Side.SERVICE),
        ("notify", RetryableError("timeout", "Down.", retry=Retry.POSTBACK, retry_after=60), Side.RECEIVER),
        ("notify", RetryableError("sqs_error", "Down.", retry_after=60), Side.SERVICE),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_a_job_is_late_once_its_next_attempt_is(stage: str, error: PipelineError, side: Side) -> None:
    # Given a job that was accepted a second ago
    job = replace(a_job(), accepted=NOW - 1)
    # When its next attempt comes in a minute
    decision = decide(received(stage), Unfinished((job, {URL: error})))
    # Then its event names the side that made it late
    (event,) = decision.events
    assert event.job
    assert (event.made_late_by, event.job.is_late, event.job.delayed_by) == (side, True, side)
    # And another attempt that fails does not do so again
    (again,) = decide(received(stage), Unfinished((event.job, {URL: error}))).events
    assert again.made_late_by is None


@pytest.mark.parametrize(
    ("accepted", "name"), [(NOW, "postback_url"), (0.0, "postback_url"), (NOW - 60, CLEAN_UP)], ids=str
)
def test_a_job_is_not_late_in_time_or_without_a_time_or_for_its_clean_up(accepted: float, name: str) -> None:
    job = replace(a_job(), accepted=accepted)
    (event,) = decide(received("notify"), Unfinished((job, {name: RetryableError("timeout", "Down.")}))).events
    assert event.made_late_by is None
    assert event.job
    assert not event.job.is_late


def test_the_objective_does_not_cover_a_redriven_dead_letter() -> None:
    job = replace(a_job(), ticket="t", accepted=NOW - 60, delayed_by=Side.SOURCE, is_late=True)
    letter, _ = decide(received(), PermanentError("http_404", "Gone."), job=job).settlement.sends
    assert Job.decode(letter.message.kwargs["job"]) == replace(a_job(), ticket="t", redrives=1)


def test_a_clean_up_that_fails_for_good_leaves_no_letter() -> None:
    job = a_job().with_errors(FETCH, {URL: PermanentError("http_404", "Gone.")})
    decision = decide(received("notify"), Unfinished((job, {CLEAN_UP: PermanentError("too_large", "Refused.")})))
    assert decision.settlement == Settlement(Delete())


def test_a_page_of_a_sweep_is_retried_like_a_service_and_then_buried() -> None:
    # Given a page that SQS did not take
    message = received("sweep_channels", attempts={"service": 2})
    send = the_send(decide(message, BrokerConnectionError("down")))
    assert (send.delay, send.message.options[ATTEMPTS]) == (30_000, {"service": 3})
    assert send.message.message_id == message.message_id
    # When all delays are used
    last = received("sweep_channels", attempts={"service": len(Settings().retry_delays)})
    ending = decide(last, ValueError("secret-word")).settlement.ending
    # Then it becomes a dead letter with a reason.
    assert isinstance(ending, Bury)
    assert (ending.reason.code, ending.reason.stage, ending.reason.attempts) == ("internal_error", "sweep_channels", 9)
    assert "secret-word" not in ending.reason.message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeLimitExceeded(), "time_limit"),
        (MemoryError(), "out_of_memory"),
        (BrokerConnectionError("down"), "sqs_error"),
        (ValueError("x"), "internal_error"),
    ],
)
def test_unexpected_errors_are_retried(error: BaseException, code: str) -> None:
    decision = decide(received("resize"), error)
    assert [(event.outcome, event.code, event.stage) for event in decision.events] == [
        (Outcome.RETRY, code, RESIZE.name)
    ]


def test_a_message_that_was_given_up_does_not_run() -> None:
    message = received("fetch_quarantine", "fetch")
    settlement = Failures(RetryPolicy(), lambda _: a_job(), message_of)
    settlement.before_process_message(None, message)
    message.is_quarantined, message.receives = True, GIVE_UP_AT
    with pytest.raises(Unsettled) as raised:
        settlement.before_process_message(None, message)
    assert getattr(raised.value.__cause__, "code", "") == "worker_crashed"


def test_a_decision_is_left_to_the_queue_layer_and_reported_when_it_is_made() -> None:
    # Given an actor that started five seconds ago
    message = received()
    message.began = time.monotonic() - 5
    settlement = Failures(RetryPolicy(), lambda _: a_job(), message_of)
    settlement.after_process_message(None, message)
    assert message.decide is None
    settlement.after_process_message(None, message, exception=PermanentError("http_404", "Gone."))
    assert message.ending == Release()
    assert message.decide
    before = time.time()
    found: list[Event] = []
    subscribe(found.append)
    try:
        letter, _ = message.decide().sends
    finally:
        unsubscribe(found.append)
    assert isinstance(letter, Letter)
    assert letter.reason.last <= before  # when the actor ended, and not when its settlement was decided
    assert 5 <= found[0].seconds < 60
