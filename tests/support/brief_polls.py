"""Loaded by a worker together with the actors: polls and pauses after failures are short, and depths are read often.

It is soon not ready if SQS does not answer.
"""

from __future__ import annotations

import pipeline.monitoring.health
import pipeline.sqs.consumer
import pipeline.sqs.leases
import pipeline.worker.instrumentation

pipeline.sqs.consumer.LONG_POLL = 1
pipeline.sqs.leases.LAST_BACKOFF = 1.0
pipeline.monitoring.health.ANSWER_WITHIN = 4.0
pipeline.worker.instrumentation.DEPTHS_MAX_AGE = 1.0
