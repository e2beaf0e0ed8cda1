"""Runs `image-pipeline ingest` with short leases and polls, as `brief_leases` does for workers."""

from __future__ import annotations

import sys

import pipeline.worker.ingest
from pipeline.cli.app import main

pipeline.worker.ingest.VISIBILITY_TIMEOUT = 4
pipeline.worker.ingest.LONG_POLL = 2

if __name__ == "__main__":
    sys.argv = ["image-pipeline", "ingest"]
    main()
