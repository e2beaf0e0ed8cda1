"""The broker with all actors, as `dramatiq pipeline.actors` and `periodiq pipeline.actors` load it."""

from pipeline.settings import settings_or_exit
from pipeline.worker.broker import build

broker = build(settings_or_exit())

from actors.fetch import fetch_image  # noqa: E402 - actors are declared on the broker
from actors.notify import notify_result  # noqa: E402
from actors.resize import resize_image  # noqa: E402
from actors.sweeps import sweep_channels, sweep_episodes  # noqa: E402
from actors.upload import upload_image  # noqa: E402

__all__ = [
    "broker",
    "fetch_image",
    "notify_result",
    "resize_image",
    "sweep_channels",
    "sweep_episodes",
    "upload_image",
]
