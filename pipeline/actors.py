"""What `dramatiq pipeline.actors` and `periodiq pipeline.actors` load: the broker, and every actor."""

from actors.fetch import fetch_image
from actors.notify import notify_result
from actors.resize import resize_image
from actors.sweeps import sweep_channels, sweep_episodes
from actors.upload import upload_image
from pipeline.worker.broker import broker

__all__ = [
    "broker",
    "fetch_image",
    "notify_result",
    "resize_image",
    "sweep_channels",
    "sweep_episodes",
    "upload_image",
]
