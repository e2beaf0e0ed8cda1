"""Podcast covers from any feed to every size your apps need, in four SQS-backed stages.

from pipeline import send_message           # sends to the input queue
from pipeline.actors import fetch_image     # or enqueue for the first stage
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.errors import Rejected
    from pipeline.producer import send_message

__all__ = ["Rejected", "send_message"]


def __getattr__(name: str) -> Any:
    # Imported on first use, because every process of the service imports this package and needs neither.
    if name == "send_message":
        from pipeline.producer import send_message  # noqa: PLC0415

        return send_message
    if name == "Rejected":
        from pipeline.errors import Rejected  # noqa: PLC0415

        return Rejected
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
