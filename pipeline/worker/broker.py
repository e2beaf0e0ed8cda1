"""The composition of the worker: the broker that all actors share, with its middleware."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.encoder import JSONEncoder
from dramatiq.middleware import AgeLimit, CurrentMessage, ShutdownNotifications, TimeLimit
from periodiq import PeriodiqMiddleware

from pipeline.clients import aws
from pipeline.events import subscribe
from pipeline.metrics import count_event
from pipeline.monitoring.logs import log_event, set_up
from pipeline.monitoring.recorders import Recording
from pipeline.payload import to_json
from pipeline.settings import Settings
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.lanes import Lanes
from pipeline.sqs.queues import RETENTION
from pipeline.stages import BULK_QUEUES, dead_letter_queue_of
from pipeline.storage.staging import staging
from pipeline.worker.crash_counter import StagedTrials
from pipeline.worker.heartbeats import Heartbeats
from pipeline.worker.instrumentation import Instrumentation
from pipeline.worker.messages import job_of
from pipeline.worker.middleware import GracefulShutdown, InProgress, KeepMemory, StartupNotices, Suspects
from pipeline.worker.settlement import Settlement
from pipeline.worker.stage_actor import pass_on


class Encoder(JSONEncoder):
    """Encodes messages as compact JSON, and a `bson.ObjectId` as its 24 hex digits."""

    def encode(self, data: dict[str, Any]) -> bytes:
        return to_json(data).encode()


def build(settings: Settings) -> SQSBroker:
    """Build the broker from the settings and make it dramatiq's global broker.

    It also sets up logging, and subscribes logs and metrics to the events of jobs. It opens no connection.
    """
    set_up(settings)
    subscribe(log_event)
    subscribe(count_event)
    dramatiq.set_encoder(Encoder())
    broker = _make(settings)
    dramatiq.set_broker(broker)
    return broker


def _make(settings: Settings) -> SQSBroker:
    return SQSBroker(
        namespace=settings.queue_namespace,
        dead_letter_queue=dead_letter_queue_of,
        client=aws.sqs,
        trials=StagedTrials(),
        claim_check=lambda body: staging().put(body),
        is_bulk=BULK_QUEUES.__contains__,
        middleware=[
            Settlement(settings, job_of, pass_on),
            Instrumentation(settings),
            Heartbeats(settings),
            StartupNotices(settings),
            Recording(settings),
            Suspects(),
            Lanes(),
            GracefulShutdown(),
            KeepMemory(),
            AgeLimit(),
            TimeLimit(),
            ShutdownNotifications(),
            CurrentMessage(),
            PeriodiqMiddleware(skip_delay=RETENTION),  # a late run is better than a missed one
            InProgress(),
        ],
    )
