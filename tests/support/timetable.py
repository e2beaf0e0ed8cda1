"""Loaded by `periodiq` in a test: one actor, whose last run was at LAST_RUN."""

from __future__ import annotations

import logging
import os
from datetime import datetime

import dramatiq

from pipeline.actors import broker
from pipeline.worker.periodic import Periodic, PeriodicActor

__all__ = ["broker"]

logging.getLogger("periodiq").setLevel(logging.DEBUG)  # The scheduler logs the time until which it sleeps.


def last_run() -> datetime:
    return datetime.fromisoformat(os.environ["LAST_RUN"])


@dramatiq.actor(
    actor_class=PeriodicActor, queue_name="sweep_channels", periodic=Periodic(os.environ["SCHEDULE"], last_run)
)
def sweep() -> None:
    """Do nothing."""
