"""Loaded by a worker together with the actors: its clock is ahead by the seconds in `CLOCK_FILE`, with short hops.

SQS's own clock cannot be moved. So hops last 2 s instead of 15 minutes, and the visibility timeout is short too.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pipeline.sqs.sender
from pipeline.actors import broker


def now() -> float:
    return time.time() + float(Path(os.environ["CLOCK_FILE"]).read_text())


broker.clock.time = now  # type: ignore[method-assign]
broker.visibility_timeout = 2
pipeline.sqs.sender.MAX_DELAY = 2
