"""The composition of the worker: the broker that all actors share, with its middleware."""

from __future__ import annotations

import dramatiq
from periodiq import PeriodiqMiddleware

from pipeline.clients import aws
from pipeline.events import subscribe
from pipeline.metrics import count_event
from pipeline.monitoring.logs import log_event, set_up
from pipeline.monitoring.recorders import Recording
from pipeline.monitoring.retrying import being_retried
from pipeline.settings import Settings
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.queues import RETENTION, Queue
from pipeline.stages import BULK_QUEUES, INGEST_DEAD_LETTER_QUEUE, QUARANTINE_QUEUES, STAGES, dead_letter_queue_of
from pipeline.worker.failures import Failures
from pipeline.worker.heartbeats import Heartbeats
from pipeline.worker.instrumentation import Instrumentation
from pipeline.worker.long_bodies import LongBodies
from pipeline.worker.messages import Encoder, job_of
from pipeline.worker.middleware import AfterBoot, HostBulkhead, StartupNotices
from pipeline.worker.orders import following
from pipeline.worker.registry import set_our_broker
from pipeline.worker.retry import RetryPolicy
from pipeline.worker.stage_actor import message_of
from pipeline.worker.staging_room import StagingRoom


def build(settings: Settings) -> SQSBroker:
    """Build the broker from the settings, and make it dramatiq's global broker unless there is one already.

    It also sets up logging, and subscribes logs, metrics and the register of retries to the events of jobs. It opens
    no connection.
    """
    set_up(settings)
    subscribe(log_event)
    subscribe(count_event)
    subscribe(being_retried())
    broker = _make(settings)
    set_our_broker(broker)
    if dramatiq.broker.global_broker is None:
        dramatiq.set_broker(broker)  # the commands `dramatiq` and `periodiq` ask for it
    return broker


def _make(settings: Settings) -> SQSBroker:
    return SQSBroker(
        settings.queue_namespace,
        aws.sqs,
        Encoder(),
        queues=[
            Queue(queue, dead_letters=dead_letter_queue_of(queue), bulk=queue in BULK_QUEUES)
            for stage in STAGES
            for queue in stage.queues
        ]
        + [Queue("ingest", dead_letters=INGEST_DEAD_LETTER_QUEUE)],
        quarantine=QUARANTINE_QUEUES,
        oversize=LongBodies().put,
        is_hurried=following().is_hurried,
        middleware=[
            AfterBoot(),
            Failures(RetryPolicy(), job_of, message_of),
            Instrumentation(settings),
            Heartbeats(settings),
            StartupNotices(settings),
            Recording(settings),
            HostBulkhead(),
            StagingRoom(),
            PeriodiqMiddleware(skip_delay=RETENTION),  # a late run is better than a missed one
        ],
    )
