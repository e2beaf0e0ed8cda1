"""Middleware of a worker other than settlement: notices at startup, suspects, memory and shutdown."""

from __future__ import annotations

import gc
import logging
import signal
from types import FrameType
from typing import Any

import dramatiq
from dramatiq.common import iter_queue
from dramatiq.middleware import SkipMessage
from dramatiq.worker import Worker

from pipeline.images.malloc import keep_freed_blocks, trim
from pipeline.settings import PUBLISHED_POSTBACK_SECRET, Settings
from pipeline.sqs.consumer import SQSConsumer
from pipeline.stages import NOTIFY, SWEEP_QUEUES

logger = logging.getLogger(__name__)


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


class Suspects(dramatiq.Middleware):
    """Starts no other message while a suspect runs. If a worker dies then, only the suspect can be the cause."""

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Release a message that was received before the suspect and has not started."""
        if broker.alone is not None and broker.alone is not message:
            message.release()
            raise SkipMessage


class InProgress(dramatiq.Middleware):
    """Records the messages that this process is working on, so that a send can wait briefly for theirs.

    It comes last in the list of middleware, because hooks of the others may skip a message.
    """

    def before_process_message(self, broker: Any, message: Any) -> None:
        broker.in_progress.add(message.lease)

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        broker.in_progress.discard(message.lease)


class KeepMemory(dramatiq.Middleware):
    """Keeps the memory of a worker between images.

    Importing a module must not do this, because it affects the whole process. That may be a customer's own process,
    which only sends jobs.
    """

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        """Configure the allocator and the garbage collector before the worker threads start."""
        keep_freed_blocks()
        gc.collect()
        gc.freeze()  # modules live forever, so full collections need not visit them

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        trim()


class GracefulShutdown(dramatiq.Middleware):
    """Releases messages that have not started as soon as the process is told to stop."""

    def before_worker_boot(self, broker: Any, worker: Worker) -> None:
        """Ignore a second SIGTERM, which dramatiq would take as a request to exit at once.

        Workers get two: honcho signals the whole process group, and dramatiq's main process signals its workers.
        """
        first = signal.getsignal(signal.SIGTERM)
        if not callable(first):
            return

        def once(signum: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            first(signum, frame)

        signal.signal(signal.SIGTERM, once)

    def before_worker_shutdown(self, broker: Any, worker: Worker) -> None:
        """Release messages now. dramatiq would do so only after the last running actor ends."""
        broker.stopping.set()
        consumers = {name: thread.consumer for name, thread in worker.consumers.items() if thread.consumer}
        for consumer in consumers.values():
            if isinstance(consumer, SQSConsumer):
                consumer.stop()
        waiting = [item.message for item in iter_queue(worker.work_queue)]
        for name, consumer in consumers.items():
            consumer.requeue([message for message in waiting if message.queue_name == name])
