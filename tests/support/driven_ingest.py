"""Ingest on a clock that the test moves, with an SQS and a sender of the test."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

import dramatiq

import pipeline.actors  # noqa: F401 - builds the broker, from which the actors' messages come
from pipeline.job_ids import input_job_id
from pipeline.sqs.queues import Queue, Queues
from pipeline.sqs.wire import Reason, SendEntry, SendFailed
from pipeline.worker.ingest import Ingest
from tests.support.moved_clock import MovedClock
from tests.support.scripted_sqs import ScriptedSQS

DELETE, CHANGE, RECEIVE = "delete_message_batch", "change_message_visibility_batch", "receive_message"
GOOD = {"image_url": "http://example.org/cover.jpg", "postback_url": "http://example.org/hook"}


class Sent:
    """Stands for the sender: it keeps what it is given, except entries for which `refuse` returns an error."""

    def __init__(self, sqs: ScriptedSQS, clock: MovedClock) -> None:
        self.client, self.clock = (lambda: sqs), clock
        self.queues = Queues("", self.client, [Queue("ingest", dead_letters="ingest_dlq")], {}, retention=1, tags={})
        self.jobs: list[str] = []
        self.letters: list[tuple[str, str, str]] = []
        self.attempts = 0
        self.refuse: Callable[[str], Exception | None] = lambda body: None
        self.oversize: Exception | None = None

    def entry(self, message: dramatiq.Message[None]) -> SendEntry:
        return SendEntry(message.kwargs["job"]["id"])

    def dead_letter(self, body: str, reason: Reason) -> SendEntry:
        if self.oversize:
            raise self.oversize
        return SendEntry.of_dead_letter(body, reason)

    def bury(self, target: str, letters: Sequence[SendEntry], *, wait_in: str) -> list[Exception | None]:
        assert wait_in == "fetch"
        return self.send(target, letters, at_once=True)

    def send(self, queue: str, entries: Sequence[SendEntry], *, at_once: bool) -> list[Exception | None]:
        assert at_once
        self.attempts += 1
        errors = [self.refuse(entry.body) for entry in entries]
        for entry, error in zip(entries, errors, strict=True):
            if error is None and queue == "ingest_dlq":
                reason = dict(entry.attributes)
                self.letters.append((entry.body, reason["stage"], reason["error_code"]))
            elif error is None:
                self.jobs.append(entry.body)
        return errors


class Driven:
    """Ingest on a clock that the test moves, with its leases."""

    def __init__(self, queue: str = "input") -> None:
        self.clock, self.sqs = MovedClock(), ScriptedSQS()
        self.sent = Sent(self.sqs, self.clock)
        self.ingest = Ingest(
            f"http://sqs/{queue}",
            sender=self.sent,  # type: ignore[arg-type]
            visibility=45,
            rng=random.Random(1),
        )

    def arrive(self, *messages: str | dict[str, object]) -> list[str]:
        """Put messages into the input queue; returns the ids of their jobs."""
        names = [f"message {len(self.sqs.waiting) + place}" for place in range(len(messages))]
        for name, body in zip(names, messages, strict=True):
            text = body if isinstance(body, str) else json.dumps(body)
            self.sqs.waiting.append({"MessageId": name, "ReceiptHandle": f"handle of {name}", "Body": text})
        return [input_job_id(name) for name in names]

    def go_on(self, seconds: float) -> None:
        """Step ingest and its leases whenever they are due."""
        until, at = self.clock.now + seconds, self.clock.now
        while self.clock.now < until:
            if at is not None and at <= self.clock.now:
                wait = self.ingest.receiver.step()
                at = None if wait is None else self.clock.now + (wait or 1.0)  # an empty poll takes a second
            due = self.ingest.receiver.leases.step()
            self.clock.now += min(1.0 if due is None else max(due, 0.01), 1.0)

    @property
    def received(self) -> int:
        return len(self.sqs.of(RECEIVE))

    @property
    def deleted(self) -> set[str]:
        return {handle for handles in self.sqs.handles(DELETE) for handle in handles}


def refuse_all(_: str) -> Exception:
    return SendFailed("SQS is down")
