"""Advice to operators about failures: which of them a redrive alone cannot help, and what to change first."""

from __future__ import annotations

from pipeline.errors import Fault, facts_of
from pipeline.stages import NOTIFY

#: Advice on codes whose cause is not the source.
_ADVICE = {
    "blocked_address": "It leads to an address that is not public. If the host is yours, add its network to "
    "`ALLOWED_NETWORKS`, `FETCH_ALLOWED_NETWORKS` or `POSTBACK_ALLOWED_NETWORKS`, and restart the workers.",
    "worker_crashed": "It ended one worker after the other. Report the defect, and redrive it only once that is fixed.",
    "out_of_memory": "The workers need more memory, or lower limits: `image-pipeline check resize` compares them.",
    "result_too_large": "It will fail again unless the receiver accepts larger messages: ask for a postback instead.",
}


def is_permanent(stage: str, code: str) -> bool:
    """Return whether a failure will happen again unless the source has changed."""
    return stage != NOTIFY.name and facts_of(code).fault is Fault.SOURCE


def advice(stage: str, code: str) -> str:
    """Return a sentence or two for an operator about failures with this code; empty if there is nothing to add."""
    if is_permanent(stage, code):
        return "It will fail again unless the source has changed."
    return _ADVICE.get(code, "")
