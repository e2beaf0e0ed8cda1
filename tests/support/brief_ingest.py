"""The command `image-pipeline ingest` with short leases and polls, as `brief_leases` gives to workers."""

from __future__ import annotations

import sys
from functools import partial

import pipeline.cli.ingest
from pipeline.cli.app import main
from pipeline.worker.ingest import Ingest

pipeline.cli.ingest.Ingest = partial(Ingest, visibility=6, poll=2)  # type: ignore[misc,assignment]

if __name__ == "__main__":
    sys.argv = ["image-pipeline", "ingest"]
    main()
