"""The broker of this process. Programs that only send jobs may have a global broker of dramatiq's of their own."""

from __future__ import annotations

from pipeline.sqs.broker import SQSBroker

_ours: list[SQSBroker] = []


def set_our_broker(broker: SQSBroker) -> None:
    """Set the broker that all actors of this project share."""
    _ours[:] = [broker]


def our_broker() -> SQSBroker:
    """Return the broker that all actors of this project share.

    Raises:
        RuntimeError: It is not built.
    """
    if not _ours:
        raise RuntimeError("The broker is not built. Import pipeline.actors first.")
    return _ours[0]
