"""Loaded by a worker together with the actors: others soon receive the messages of a process that died.

Its leases are short, and so are its polls: SQS hands messages to the open poll of a dead process too.
"""

from __future__ import annotations

import pipeline.sqs.consumer
from pipeline.actors import broker

broker.visibility_timeout = 6
pipeline.sqs.consumer.LONG_POLL = 2
