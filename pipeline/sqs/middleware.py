"""The middleware of the queue layer. The broker adds it itself, before all others, so its after-hooks come last."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import dramatiq
from dramatiq.middleware import SkipMessage
from dramatiq.worker import Worker

from pipeline.sqs.in_hand import LaneQueue
from pipeline.sqs.settlement import RELEASE_DELAY, Bury, Delete, Release, Settlement, Settling, SQSMessage
from pipeline.sqs.wire import Reason


class QueueLayer(dramatiq.Middleware):
    """Starts, skips, settles and releases the messages of dramatiq's worker."""

    def before_worker_boot(self, broker: Any, worker: Worker) -> None:
        """Replace dramatiq's work queue, and ignore a second SIGTERM, which dramatiq would take as a request to exit.

        Workers get two: honcho signals the whole process group, and dramatiq's main process signals its workers.
        """
        in_hand = broker.in_hand
        in_hand.begin()
        lanes = LaneQueue(lambda name: broker.queues[name].bulk, in_hand.wake, in_hand.stopping)
        in_hand.work_queue = worker.work_queue = lanes
        first: Any = signal.getsignal(signal.SIGTERM)

        def once(signum: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            first(signum, frame)

        if callable(first):
            signal.signal(signal.SIGTERM, once)

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Skip a message that another worker has, or that was not started before the process had to stop."""
        if message.lease.is_lost or broker.in_hand.stopping.is_set():
            message.settle(Settlement(Release()))
            raise SkipMessage
        broker.in_hand.start(message)

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Carry out the settlement, and retry it while SQS fails. The message stays leased meanwhile."""
        settling = settling_of(broker, message, exception)
        while not message.lease.is_lost and (wait := settling.step()) is not None:
            if broker.in_hand.stopping.wait(wait):
                return  # not settled, so it is released
        message.ending = settling.ending

    def after_skip_message(self, broker: Any, message: Any) -> None:
        """Settle a message that a middleware skipped. If that was not this one, it becomes a dead letter."""
        if not message.failed:
            sentence = "A middleware of the worker skipped the message."
            message.settle(Settlement(Bury(Reason("skipped", sentence, stage=message.queue_name))))
        self.after_process_message(broker, message)

    def before_worker_shutdown(self, broker: Any, worker: Worker) -> None:
        """Release messages now. dramatiq would do so only after the last running actor ends."""
        broker.in_hand.stop()
        waiting = broker.in_hand.work_queue.drain()
        for consumer in list(broker.in_hand.consumers):
            consumer.resend_started()
            consumer.requeue([message for message in waiting if message.queue_name == consumer.queue.name])


def settling_of(broker: Any, message: SQSMessage, exception: BaseException | None = None) -> Settling:
    """Return the settlement of a message whose actor returned or raised `exception`. Its lease is kept meanwhile."""
    if message.failed:
        message.settle(Settlement(Bury(Reason("failed", "dramatiq rejected the message.", stage=message.queue_name))))
    message.settle(Settlement(Release(RELEASE_DELAY) if exception else Delete()))
    message.lease.began = None
    return Settling(message, broker)
