"""Middleware of a worker other than settlement: notices at startup, and memory."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from multiprocessing.synchronize import Event
from typing import Any

import dramatiq
from dramatiq.worker import Worker

from pipeline.net.places import places
from pipeline.setting_types import PUBLISHED_POSTBACK_SECRET
from pipeline.settings import Settings
from pipeline.stages import NOTIFY, SWEEP_QUEUES

logger = logging.getLogger(__name__)


#: Seconds that the first message waits for the end of the boot, as long as dramatiq's main process waits for it.
BOOT_TIMEOUT = 30.0


class AfterBoot(dramatiq.Middleware):
    """Holds messages back until the worker has reported its boot to dramatiq's main process.

    The report takes a lock that both processes share. A message that killed the worker meanwhile would leave it locked:
    the main process would wait for it forever, and neither end nor be restarted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_over = False

    def before_process_message(self, broker: Any, message: Any) -> None:
        with self._lock:
            # One thread asks, and once: asking takes the shared lock too, and no message may run then.
            if not self._is_over:
                if report := _report_of_boot():
                    report.wait(BOOT_TIMEOUT)
                self._is_over = True


def _report_of_boot() -> Event | None:
    """Return the event by which this worker reports its boot; None outside of dramatiq's command."""
    arguments = getattr(multiprocessing.current_process(), "_args", ())
    return next((each for each in arguments if isinstance(each, Event)), None)


class StartupNotices(dramatiq.Middleware):
    """Logs once what an operator should know about the settings, in the workers that they concern."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def after_worker_boot(self, broker: Any, worker: Worker) -> None:
        settings = self._settings
        consumed = worker.consumer_whitelist or broker.get_declared_queues()
        secret_is_published = settings.shared_secret == PUBLISHED_POSTBACK_SECRET
        if NOTIFY.name in consumed and secret_is_published and not settings.sqs_endpoint:
            logger.warning("POSTBACK_SECRET_KEY is not set. Postbacks contain the published default.")
        if consumed.intersection(SWEEP_QUEUES) and settings.database_url is None:
            logger.info("No MongoDB variable is set. Sweeps are off.")


class HostPlaces(dramatiq.Middleware):
    """Lets hosts that may be slow hold only some of the worker's threads."""

    def before_worker_boot(self, broker: Any, worker: Worker) -> None:
        places().threads = worker.worker_threads
