"""The command `image-pipeline ingest`."""

from __future__ import annotations

import logging
import signal
import sys
import threading

from pipeline.cli.output.terminal import new_app
from pipeline.monitoring.health import IngestHealth
from pipeline.monitoring.logs import TEXT_FORMAT, set_up
from pipeline.monitoring.queue_depths import INGEST
from pipeline.monitoring.recorders import recording
from pipeline.settings import get_settings
from pipeline.worker.heartbeats import beating
from pipeline.worker.ingest import Ingest
from pipeline.worker.instrumentation import serve_ingest

app = new_app()
logger = logging.getLogger("pipeline.worker.ingest")


@app.command()
def ingest() -> None:
    """Receive raw JSON messages from QUEUE_URL and pass them to the fetch stage, until stopped.

    Unacceptable messages go to the queue `<QUEUE_NAMESPACE>_ingest_dlq` with the reason.
    """
    settings = get_settings()
    logging.basicConfig(level=logging.INFO, format=TEXT_FORMAT, stream=sys.stderr)
    set_up(settings)
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())

    if not settings.queue_url:
        # honcho ends all processes of the Procfile when one of them ends, so this one waits.
        logger.warning("QUEUE_URL is not set, so ingest is off. Set it to the URL of the input queue.")
        serve_ingest(None)
        stop.wait()
        return
    import pipeline.actors  # noqa: PLC0415, F401 - builds the broker, which `--help` and an unset QUEUE_URL do not need

    worker = Ingest(settings.queue_url)
    beats = beating(
        settings, INGEST, [INGEST], IngestHealth(worker), taken_at=lambda: worker.taken_at, pause=worker.pause
    )
    with recording(settings):
        with beats:  # the end is reported at once, because a supervisor may not wait for polls that are out
            worker.start()
            serve_ingest(worker)
            logger.info("Taking messages from %s.", settings.input_queue_name)
            stop.wait()
            worker.stop()
        worker.join()
