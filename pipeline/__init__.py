"""Podcast covers from any feed to every size your apps need, in four SQS-backed stages.

from pipeline import send_message           # a message to the input queue
from pipeline.actors import fetch_image     # or straight to the first stage
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.producer import send_message

__all__ = ["send_message"]


def __getattr__(name: str) -> Any:
    if name == "send_message":  # imported when asked for: the package itself stays light
        from pipeline.producer import send_message  # noqa: PLC0415

        return send_message
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
