"""The four stages on unchanged dramatiq-sqs, loaded by `dramatiq dramatiq_stages:broker`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def namespace(environ: Mapping[str, str]) -> str:
    """Return the prefix of its queues."""
    return f"{environ['QUEUE_NAMESPACE']}-dramatiq"


def make_broker() -> Any:
    """Build the broker with its four actors."""
    import bodies  # noqa: PLC0415 - sets the service's own broker, which is replaced here
    import dramatiq  # noqa: PLC0415
    import dramatiq_sqs  # noqa: PLC0415

    made = dramatiq_sqs.SQSBroker(namespace=namespace(os.environ))
    dramatiq.set_broker(made)

    def actor(name: str) -> Any:
        return dramatiq.actor(broker=made, actor_name=name, queue_name=name)

    @actor("notify")
    def notify(job: bodies.Encoded) -> None:
        bodies.notify(job)

    @actor("upload")
    def upload(job: bodies.Encoded) -> None:
        notify.send(bodies.STEPS["upload"](job))

    @actor("resize")
    def resize(job: bodies.Encoded) -> None:
        upload.send(bodies.STEPS["resize"](job))

    @actor("fetch")
    def fetch(payload: dict[str, str]) -> None:
        resize.send(bodies.STEPS["fetch"](bodies.accept(payload)))

    return made


def __getattr__(name: str) -> Any:
    if name == "broker":
        globals()[name] = made = make_broker()
        return made
    raise AttributeError(name)
