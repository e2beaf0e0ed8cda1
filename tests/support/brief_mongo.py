"""Loaded by a worker together with the actors: it soon gives up an operation of MongoDB, and tries it again."""

from __future__ import annotations

import pipeline.clients.mongo
import pipeline.monitoring.job_log.writer

pipeline.clients.mongo.SHORT_TIMEOUT = 2.0
pipeline.monitoring.job_log.writer.TIMEOUT = 2.0
