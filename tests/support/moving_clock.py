"""Loaded by a worker together with the actors: its clock is ahead by the seconds in `CLOCK_FILE`, with short hops.

SQS's own clock cannot be moved. So hops last 2 s instead of a minute, and the visibility timeout is short too.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pipeline.sqs.looks
from pipeline.actors import broker


def now() -> float:
    return time.time() + float(Path(os.environ["CLOCK_FILE"]).read_text())


broker.clock.time = now  # type: ignore[method-assign]
broker.visibility_timeout = 2
pipeline.sqs.looks.LOOK, pipeline.sqs.looks.GRID = 2.0, 1.0
