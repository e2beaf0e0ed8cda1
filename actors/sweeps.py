"""The nightly sweeps of MongoDB. They are off: this version only says so."""

from __future__ import annotations

import logging

import dramatiq
from periodiq import cron

from pipeline.settings import get_settings

logger = logging.getLogger(__name__)


@dramatiq.actor(queue_name="sweep_channels", periodic=cron(get_settings().sweep_channels_cron))
def sweep_channels() -> None:
    """Look for channels whose covers changed."""
    logger.info("Sweeps are off: this version has none for channels.")


@dramatiq.actor(queue_name="sweep_episodes", periodic=cron(get_settings().sweep_episodes_cron))
def sweep_episodes() -> None:
    """Look for episodes whose covers changed."""
    logger.info("Sweeps are off: this version has none for episodes.")
