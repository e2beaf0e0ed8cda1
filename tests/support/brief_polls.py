"""Loaded by a worker beside the actors: its polls are brief, and it is soon not ready without an answer."""

from __future__ import annotations

import pipeline.monitoring.health
import pipeline.sqs.consumer

pipeline.sqs.consumer.LONG_POLL = 1
pipeline.monitoring.health.ANSWER_WITHIN = 4.0
