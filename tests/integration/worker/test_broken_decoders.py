"""Images that crash, block or take over their decoder, among others, in a worker on the embedded SQS."""

from __future__ import annotations

import os

import pytest

from pipeline.events import Event, Outcome, subscribe, unsubscribe
from pipeline.images import sandbox
from pipeline.images.content_id import content_id
from pipeline.job import Content, Job, Source
from pipeline.recipe import Recipe, parse_rendition
from pipeline.stages import RESIZE
from pipeline.storage.staging import staging
from tests.integration.conftest import worker_of
from tests.support.waiting import wait_for

RECIPE = Recipe((parse_rendition("8x8"),))
HONEST = "made = {'8x8': b'fine'}"
#: What a decoder does with an image, and the code that the image ends with.
HARMFUL = {
    "ctypes.string_at(0)": "broken_image",
    "os._exit(1)": "broken_image",
    "while True: pass": "too_large",
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])\nwhile True: pass": "too_large",
    "result = open(f'/proc/{os.getppid()}/environ').read()": "broken_image",
    "os.write(1, b'x' * 99); time.sleep(600)": "broken_image",
}


def job(number: int, code: str) -> Job:
    """Return a job whose source has been fetched: Python code, in place of an image."""
    image = code.encode()
    content = Content(content_id(image, RECIPE), ".jpeg", RECIPE)
    source = Source(f"http://a.example/{number}", ("image_url",)).fetched(staging().put(image), content)
    return Job(f"job-{number}", "SHOW", (source,), {"image_url": source.url, "redirect_queue": "x"}, ticket="t")


def test_each_ends_with_a_code_and_costs_no_other_image(environment, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a decoder that does what an image says
    monkeypatch.setattr(sandbox, "CHILD", ("-P", "-m", "tests.support.decoder_hook"))
    monkeypatch.setattr(sandbox, "CPU_SECONDS", 0.2)
    monkeypatch.setattr(sandbox, "TIMEOUT", 2)
    sandbox._SANDBOX.close()
    events: list[Event] = []
    codes = [code for harmful in HARMFUL for code in (HONEST, harmful, HONEST)]
    subscribe(events.append)
    try:
        with worker_of("resize"):
            from pipeline.actors import broker

            actor = broker.get_actor(RESIZE.actor)
            # When harmful images come among honest ones
            for number, code in enumerate(codes):
                broker.enqueue(actor.message_of(job(number, code)))
            ended = wait_for(lambda: len(found := outcomes(events)) == len(codes) and found, 120)
    finally:
        unsubscribe(events.append)
        sandbox._SANDBOX.close()
    # Then each has its code after one attempt of the stage, and every honest one is rendered, all by this process
    expected = {f"job-{n}": (1, HARMFUL.get(code, "")) for n, code in enumerate(codes)}
    assert ended == expected
    assert {event.outcome for event in events if event.stage == "resize"} == {Outcome.DONE, Outcome.GIVEN_UP}
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(events)


def outcomes(events: list[Event]) -> dict[str, tuple[int, str]]:
    """Return the attempt and the code of each job that has ended in resize."""
    return {event.job_id: (event.attempt, event.code) for event in events if event.stage == "resize"}
