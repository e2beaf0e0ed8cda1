"""Loaded by a worker beside the actors: its clock is ahead by the seconds in the file `CLOCK_FILE`, and hops are short.

SQS's own clock cannot be moved: so hops, which are 15 minutes long, are of 2 s here, and visibility is short too.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pipeline.sqs.broker
from pipeline.actors import broker


def now() -> float:
    return time.time() + float(Path(os.environ["CLOCK_FILE"]).read_text())


broker.clock = now
broker.visibility = 2
pipeline.sqs.broker.MAX_DELAY = 2
