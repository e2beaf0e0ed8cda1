"""Loaded by a worker together with the actors: polls are short, and it is soon not ready if SQS does not answer."""

from __future__ import annotations

import pipeline.monitoring.health
import pipeline.sqs.consumer

pipeline.sqs.consumer.LONG_POLL = 1
pipeline.monitoring.health.ANSWER_WITHIN = 4.0
