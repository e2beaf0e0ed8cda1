"""A program that only sends jobs keeps its own global broker and encoder of dramatiq's."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json
import dramatiq
from dramatiq.brokers.stub import StubBroker
from dramatiq.encoder import PickleEncoder

OWN_BROKER
dramatiq.set_encoder(PickleEncoder())
own = dramatiq.Message("q", "a", (), {}, {}).encode()

from pipeline.actors import broker, fetch_image, sweep_channels
from pipeline.worker.registry import our_broker

print(json.dumps([
    type(dramatiq.get_broker()).__name__,
    dramatiq.Message.decode(own).queue_name,
    fetch_image.broker is sweep_channels.broker is broker is our_broker(),
]))
"""


def run(own_broker: str) -> object:
    program = PROGRAM.replace("OWN_BROKER", own_broker)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_programs_own_broker_and_encoder_are_left_alone() -> None:
    assert run("dramatiq.set_broker(StubBroker())") == ["StubBroker", "q", True]


def test_without_another_broker_ours_is_dramatiqs_global_one() -> None:
    assert run("") == ["SQSBroker", "q", True]
