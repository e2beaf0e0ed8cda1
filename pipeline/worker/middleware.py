"""The middleware of a worker that settles nothing: notices at its start, memory, and shutdown."""

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

from pipeline.settings import PUBLISHED_POSTBACK_SECRET, Settings
from pipeline.sqs.consumer import SQSConsumer
from pipeline.stages import NOTIFY, SWEEP_QUEUES
from pipeline.worker.malloc import give_back, keep_freed_blocks

logger = logging.getLogger(__name__)


class StartupNotices(dramatiq.Middleware):
    """Says once, where a worker starts that it concerns, what a person should know of its settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def after_worker_boot(self, broker: Any, worker: Worker) -> None:
        """Look at the settings that the worker's queues depend on."""
        settings = self._settings
        consumed = worker.consumer_whitelist or broker.get_declared_queues()
        secret_is_published = settings.postback_secret_key.get_secret_value() == PUBLISHED_POSTBACK_SECRET
        if NOTIFY.name in consumed and secret_is_published and not settings.sqs_endpoint:
            logger.warning("POSTBACK_SECRET_KEY is not set: postbacks carry the published default.")
        if consumed.intersection(SWEEP_QUEUES) and settings.database_url is None:
            logger.info("No MongoDB variable is set: sweeps are off.")


class Suspects(dramatiq.Middleware):
    """Begins nothing beside a suspect: it might be the real killer, and the suspect be blamed for it."""

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Give back what was received and not begun when a suspect came."""
        if broker.alone is not None and broker.alone is not message:
            message.release()
            raise SkipMessage


class InProgress(dramatiq.Middleware):
    """Keeps what this process has begun and not ended: a send waits a little for those that may come of it.

    Comes last in the list of middleware: before-hooks of others may let a message go unbegun.
    """

    def before_process_message(self, broker: Any, message: Any) -> None:
        """It is begun."""
        broker.in_progress.add(message.lease)

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """It has ended, and sends nothing more, or not soon."""
        broker.in_progress.discard(message.lease)


class KeepMemory(dramatiq.Middleware):
    """Has a worker process keep its memory between images. Not done by importing anything: it concerns the whole
    process, which may be a customer's own that only sends jobs."""

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        """Set it, before there is a thread that works."""
        keep_freed_blocks()
        gc.collect()
        gc.freeze()  # modules stay: without it, each full collection looks at them all

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Keep no more than the next image is likely to need."""
        give_back()


class GracefulShutdown(dramatiq.Middleware):
    """Hands back what is held and not begun as soon as the process is told to stop."""

    def before_worker_boot(self, broker: Any, worker: Worker) -> None:
        """Take a second SIGTERM as the first: honcho signals the whole process group, dramatiq's master its workers
        again, and dramatiq takes a second one as the wish to be killed."""
        first = signal.getsignal(signal.SIGTERM)
        if not callable(first):
            return

        def once(signum: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            first(signum, frame)

        signal.signal(signal.SIGTERM, once)

    def before_worker_shutdown(self, broker: Any, worker: Worker) -> None:
        """Give back at once, not only when the last running actor has ended."""
        broker.stopping.set()
        consumers = {name: thread.consumer for name, thread in worker.consumers.items() if thread.consumer}
        for consumer in consumers.values():
            if isinstance(consumer, SQSConsumer):
                consumer.stop()
        waiting = [item.message for item in iter_queue(worker.work_queue)]
        for name, consumer in consumers.items():
            consumer.requeue([message for message in waiting if message.queue_name == name])
